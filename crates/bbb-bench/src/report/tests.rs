use super::*;
use crate::failure::Failure;
use crate::measure::CpuUsed;

fn sample(calls: u32, wall_ms: u64, own_ms: u64, children_ms: u64) -> Sample {
    let ms = Duration::from_millis;
    let mut sample = Sample {
        wall: ms(wall_ms),
        bytes: 1000 * u64::from(calls),
        server: Some(CpuUsed { own: ms(own_ms), children: ms(children_ms) }),
        client: ms(100),
        machine: ms(own_ms + children_ms + 100 + 50),
        ..Sample::default()
    };
    (0..calls).for_each(|_| sample.latency.add(ms(2)));
    sample
}

fn series(server: &str, runs: Vec<Sample>) -> Series {
    Series { name: "some".into(), concurrency: 4, server: server.into(), runs }
}

#[test]
fn figures_are_per_call_and_per_second() {
    let figures = Figures::of(&sample(100, 500, 200, 300));
    assert_eq!(figures.per_second, Some(200.0));
    assert_eq!(figures.cpu_ms, Some(5.0));
    assert_eq!(figures.own_cpu_ms, Some(2.0));
    assert_eq!(figures.client_ms, Some(1.0));
    assert_eq!(figures.server_busy, Some(1.0));
    assert_eq!(figures.other_busy, Some(0.1));
    assert_eq!(figures.bytes_per_second, Some(200_000.0));
}

#[test]
fn without_a_process_there_are_no_figures_of_it() {
    let figures = Figures::of(&Sample { server: None, ..sample(1, 1, 0, 0) });
    assert!(figures.cpu_ms.is_none() && figures.other_busy.is_none());
    assert!(figures.client_ms.is_some());
}

#[test]
fn cpu_of_other_processes_stands_below_the_line() {
    let ms = Duration::from_millis;
    let through = Some(CpuUsed { own: ms(150), children: ms(50) });
    let run =
        Sample { through, also: Some(ms(100)), machine: ms(1000), ..sample(100, 500, 300, 0) };
    assert_eq!(Figures::of(&run).all_ms, Some(6.0));
    assert_eq!(Figures::of(&run).other_busy, Some(0.6));
    let series = series("server", vec![run]);
    assert_eq!(series.remarks(), ["    CPU ms: through 2.00, also 1.00, all 6.00"]);
}

#[test]
fn runs_without_answers_leave_the_medians_alone() {
    let runs = [sample(100, 500, 200, 300), Sample::default(), sample(100, 500, 400, 300)];
    assert_eq!(Figures::medians(&runs).own_cpu_ms, Some(3.0));
    assert_eq!(Figures::medians(&runs[1..2]).per_second, None);
}

#[test]
fn pairs_are_compared_run_by_run() {
    let ours = series("server", vec![sample(100, 500, 100, 0), sample(100, 500, 300, 0)]);
    let theirs = series("vs", vec![sample(100, 500, 200, 0), sample(100, 500, 200, 0)]);
    let line = ratios(&ours, &theirs).unwrap();
    assert!(line.contains("server CPU 1.00 (0.50 to 1.50)"), "{line}");
    assert_eq!(ratios(&ours, &series("vs", vec![])), None);
}

#[test]
fn failures_are_shown_with_their_story() {
    let mut failing = Sample::default();
    failing.failures.add(&Failure::wrong("story"));
    let series = series("server", vec![failing.clone(), failing]);
    assert!(series.line().ends_with(" 2"));
    assert_eq!(series.remarks(), ["    2 times wrong answer, first: wrong answer: story"]);
    let json = json(&[series], &[], &[]);
    assert_eq!(json["workloads"][0]["runs"][1]["failures"][0]["count"], 1);
}

#[test]
fn numbers_have_three_digits() {
    let shown = [1234.5, 12.345, 1.2345, 0.12345, 0.012_345].map(|value| number(Some(value)));
    assert_eq!(shown, ["1234", "12.3", "1.23", "0.123", "0.0123"]);
    assert_eq!(number(None), "-");
}
