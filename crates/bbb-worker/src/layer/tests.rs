use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::seeds::Seed;

/// What is seen at a name, or said of it by one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Shown {
    File(Digest, bool, NodeProperties),
    Symlink(String, NodeProperties),
    Directory(NodeProperties, BTreeMap<String, Shown>),
    Whiteout,
}

/// A layer as it is made, and how many entries that takes.
fn made(layer: &Layer) -> (Option<Shown>, u64) {
    let mut entries = 0;
    let mut root: Option<Shown> = None;
    for (index, planned) in layer.directories.iter().enumerate() {
        let mut nodes = BTreeMap::new();
        let mut add = |name: &FileName, node: Shown| {
            entries += 1;
            assert!(nodes.insert(name.as_str().to_owned(), node).is_none(), "{name:?} twice");
        };
        for blob in &layer.blobs {
            for (_, position) in blob.places.iter().filter(|place| place.0 == index) {
                let file = &planned.directory.files[*position];
                assert_eq!(file.digest, blob.digest);
                add(&file.name, Shown::File(file.digest, file.is_executable, file.properties));
            }
        }
        for link in planned.symlinks() {
            add(&link.name, Shown::Symlink(link.target.clone(), link.properties));
        }
        planned.whiteouts.iter().for_each(|name| add(name, Shown::Whiteout));
        let directory = Shown::Directory(planned.directory.properties, nodes);
        let Some(mut parent) = root.as_mut() else {
            assert_eq!(planned.path, "");
            root = Some(directory);
            continue;
        };
        entries += 1;
        let (above, name) = planned.path.rsplit_once('/').unwrap_or(("", &planned.path));
        for segment in above.split('/').filter(|segment| !segment.is_empty()) {
            let Shown::Directory(_, nodes) = parent else { panic!("{above} is no directory") };
            parent = nodes.get_mut(segment).unwrap();
        }
        let Shown::Directory(_, nodes) = parent else { panic!("{above} is no directory") };
        assert!(nodes.insert(name.to_owned(), directory).is_none());
    }
    (root, entries)
}

/// What an overlay shows of two layers.
fn overlaid(upper: Shown, lower: &Shown) -> Shown {
    let (Shown::Directory(properties, mut nodes), Shown::Directory(_, below)) =
        (upper.clone(), lower)
    else {
        return upper;
    };
    for (name, lower) in below {
        match nodes.remove(name) {
            None => nodes.insert(name.clone(), lower.clone()),
            Some(upper) => nodes.insert(name.clone(), overlaid(upper, lower)),
        };
    }
    Shown::Directory(properties, nodes)
}

/// What is left once whiteouts have done their work.
fn seen(shown: Shown) -> Shown {
    match shown {
        Shown::Directory(properties, nodes) => {
            let nodes = nodes.into_iter().filter(|(_, node)| *node != Shown::Whiteout);
            let nodes = nodes.map(|(name, node)| (name, seen(node))).collect();
            Shown::Directory(properties, nodes)
        }
        other => other,
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

fn seed() -> impl Strategy<Value = Seed> {
    let file = ("[xyz]", any::<bool>(), 0..3_u64).prop_map(|(content, is_executable, time)| {
        let file = Seed::file(&content);
        let Seed::File { content, properties, .. } =
            (if time > 0 { file.changed_at(time) } else { file })
        else {
            unreachable!()
        };
        Seed::File { content, is_executable, properties }
    });
    let link = "[xyz]".prop_map(|target| Seed::symlink(&target));
    let leaf = prop_oneof![4 => file, 1 => link];
    leaf.prop_recursive(4, 40, 6, |node| {
        (prop::collection::btree_map("[a-f]", node, 0..6), 0..2_u64).prop_map(|(nodes, time)| {
            let properties = NodeProperties::default();
            let directory = Seed::Directory { nodes, properties };
            if time > 0 { directory.changed_at(time) } else { directory }
        })
    })
}

fn root() -> impl Strategy<Value = Seed> {
    prop::collection::btree_map("[a-f]", seed(), 0..6)
        .prop_map(|nodes| Seed::Directory { nodes, properties: NodeProperties::default() })
}

/// A tree and one that differs from it in a node somewhere.
fn pair() -> impl Strategy<Value = (Seed, Seed)> {
    let changed = |(seed, path, node): (Seed, Vec<prop::sample::Index>, Option<Seed>)| {
        let mut other = seed.clone();
        change(&mut other, &path, node);
        (seed, other)
    };
    let path = prop::collection::vec(any::<prop::sample::Index>(), 1..4);
    let near = (root(), path, prop::option::of(seed())).prop_map(changed);
    prop_oneof![(root(), root()), near]
}

/// Puts another node, or none, in the place of one that is found by going down.
fn change(at: &mut Seed, path: &[prop::sample::Index], node: Option<Seed>) {
    let Seed::Directory { nodes, .. } = at else { return };
    let Some((first, rest)) = path.split_first() else { return };
    if nodes.is_empty() {
        return;
    }
    let name = nodes.keys().nth(first.index(nodes.len())).unwrap().clone();
    match (rest.is_empty(), node) {
        (false, node) if matches!(nodes[&name], Seed::Directory { .. }) => {
            change(nodes.get_mut(&name).unwrap(), rest, node);
        }
        (_, Some(node)) => drop(nodes.insert(name, node)),
        (_, None) => drop(nodes.remove(&name)),
    }
}

proptest! {
    #[test]
    fn a_layer_above_another_tree_shows_the_tree((base, tree) in pair()) {
        let (base, tree) = runtime().block_on(async { (base.grow().await, tree.grow().await) });
        let (lower, all) = made(&Layer::whole(&base));
        prop_assert_eq!(all, base.totals().nodes);
        prop_assert_eq!(Layer::whole(&base).entries(), all);
        let layer = Layer::above(&base, &tree, u64::MAX).unwrap();
        let (upper, entries) = made(&layer);
        prop_assert_eq!(layer.entries(), entries);
        let lower = lower.unwrap();
        let shown = upper.map_or(lower.clone(), |upper| overlaid(upper, &lower));
        let (wanted, _) = made(&Layer::whole(&tree));
        prop_assert_eq!(seen(shown), wanted.unwrap());
        // It is made if it costs no more than it may.
        prop_assert!(Layer::above(&base, &tree, entries).is_some());
        if entries > 0 {
            prop_assert!(Layer::above(&base, &tree, entries - 1).is_none());
        }
        // What stands there already is not made again.
        prop_assert!(entries <= base.totals().nodes + tree.totals().nodes);
    }
}

/// So many directories of 100 files each; one of them says something else.
fn wide(directories: usize, changed: &str) -> Seed {
    let files = |directory: usize| {
        (0..100).map(move |file| (format!("f{file}"), Seed::file(&format!("{directory} {file}"))))
    };
    let directories = (0..directories).map(|directory| {
        let mut nodes: BTreeMap<_, _> = files(directory).collect();
        if directory == 7 {
            nodes.insert("f5".into(), Seed::file(changed));
        }
        (format!("d{directory}"), Seed::Directory { nodes, properties: NodeProperties::default() })
    });
    Seed::Directory { nodes: directories.collect(), properties: NodeProperties::default() }
}

#[tokio::test]
async fn one_new_file_of_many_is_one_file_and_the_way_to_it() {
    for directories in [10, 100] {
        let (base, tree) = (wide(directories, "old").grow().await, wide(directories, "new"));
        let layer = Layer::above(&base, &tree.grow().await, 2).unwrap();
        let paths: Vec<_> = layer.directories.iter().map(|planned| &*planned.path).collect();
        assert_eq!(paths, ["", "d7"]);
        assert_eq!((layer.entries(), layer.blobs.len()), (2, 1));
    }
}

#[tokio::test]
async fn equal_trees_need_no_layer() {
    let seed = wide(10, "same");
    let layer = Layer::above(&seed.grow().await, &seed.grow().await, 0).unwrap();
    assert!(layer.is_empty() && layer.entries() == 0);
}

#[tokio::test]
async fn each_blob_is_laid_out_once_with_all_its_places() {
    let below = || Seed::directory([("f", Seed::file("x"))]);
    let root = Seed::directory([
        ("f", Seed::file("x")),
        ("g", Seed::file("y")),
        ("a", below()),
        ("b", below()),
    ]);
    let layer = Layer::whole(&root.grow().await);
    let paths: Vec<_> = layer.directories.iter().map(|planned| &*planned.path).collect();
    assert_eq!(paths, ["", "a", "b"]);
    let places: Vec<_> = layer.blobs.iter().map(|blob| blob.places.clone()).collect();
    assert_eq!(places, [vec![(0, 0), (1, 0), (2, 0)], vec![(0, 1)]]);
}
