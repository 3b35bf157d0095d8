//! What an action costs beside its command: printed, not judged. Run by hand with `--run-ignored only`.

use std::time::{Duration, Instant};

use bbb_sandbox::Mode;

use crate::rig::{Rig, Tree, command};

/// Processor time of this process and, once they have ended, its children; the launcher and its actions
/// are no part of it.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    let own: u64 = stat.split(' ').next().unwrap().parse().unwrap();
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let of_threads = threads.filter_map(|thread| {
        let stat = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(own.max(of_threads.sum()))
}

async fn measure(rig: &Rig, name: &str, tree: Tree, runs: u32) {
    let command = command("true", &[]);
    let action = rig.action(tree, &command, |action| action.do_not_cache = true).await;
    rig.execute(rig.task(action)).await;
    let (from, used) = (Instant::now(), cpu());
    for _ in 0..runs {
        rig.execute(rig.task(action)).await;
    }
    let (wall, used) = (from.elapsed() / runs, (cpu() - used) / runs);
    println!("{name}: {wall:?} each, {used:?} of this process' processor time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn overhead_of_one_action() {
    for mode in [Mode::Namespaces, Mode::None] {
        let rig = Rig::new(mode).await;
        measure(&rig, &format!("no-op, {mode:?}"), Tree::default(), 200).await;
        let mut tree = Tree::default();
        for directory in 0..10 {
            let files = (0..100).fold(Tree::default(), |tree, file| {
                tree.file(&format!("f{file}"), format!("{directory} {file}").as_bytes())
            });
            tree = tree.below(&format!("d{directory}"), files);
        }
        measure(&rig, &format!("1,000 inputs, {mode:?}"), tree, 20).await;
    }
}
