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

/// Runs an action over each of these trees after one over the first of them.
async fn measure(rig: &Rig, name: &str, trees: impl ExactSizeIterator<Item = Tree>) {
    let command = command("true", &[]);
    let mut actions = Vec::new();
    for tree in trees {
        actions.push(rig.action(tree, &command, |action| action.do_not_cache = true).await);
    }
    rig.execute(rig.task(actions[0])).await;
    let runs = actions.len() as u32 - 1;
    let (from, used) = (Instant::now(), cpu());
    for action in &actions[1..] {
        rig.execute(rig.task(*action)).await;
    }
    let (wall, used) = (from.elapsed() / runs, (cpu() - used) / runs);
    println!("{name}: {wall:?} each, {used:?} of this process' processor time");
}

/// Directories of 100 files each, in one of which `changed` says something.
fn wide(directories: usize, changed: usize) -> Tree {
    (0..directories).fold(Tree::default(), |tree, directory| {
        let files = (0..100).fold(Tree::default(), |tree, file| {
            let content = match (directory, file) {
                (7, 7) => format!("changed {changed}"),
                _ => format!("{directory} {file}"),
            };
            tree.file(&format!("f{file}"), content.as_bytes())
        });
        tree.below(&format!("d{directory}"), files)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn overhead_of_one_action() {
    for mode in [Mode::Namespaces, Mode::None] {
        let rig = Rig::with(mode, |settings| {
            let usual = bbb_worker::Settings::new("", "");
            settings.copied_files = usual.copied_files;
            settings.shared_nodes = usual.shared_nodes;
            settings.spare_folders = usual.spare_folders;
        })
        .await;
        measure(&rig, &format!("no-op, {mode:?}"), (0..200).map(|_| Tree::default())).await;
        for directories in [10, 100] {
            let inputs = directories * 100;
            let same = (0..20).map(|_| wide(directories, 0));
            measure(&rig, &format!("{inputs} inputs, {mode:?}"), same).await;
            let changed = (0..20).map(|run| wide(directories, run));
            measure(&rig, &format!("{inputs} inputs, one new, {mode:?}"), changed).await;
        }
    }
}
