use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use bbb_digest::InstanceName;

use crate::{ActionCache, Cas, Trees};

/// What one instance stores.
#[derive(Clone, Debug)]
pub struct Stores {
    /// Its blobs.
    pub cas: Arc<dyn Cas>,
    /// Its results.
    pub action_cache: Arc<dyn ActionCache>,
    /// The file trees among its blobs.
    pub trees: Arc<Trees>,
}

/// The stores of each instance, put together when it is first asked for.
///
/// Instances are walls: nothing written in one is visible in another. Any name is an instance; stores
/// are but views, so that a name costs nothing until something is written under it.
pub struct Instances {
    build: Box<dyn Fn(&InstanceName) -> Stores + Send + Sync>,
    known: Mutex<HashMap<InstanceName, Stores>>,
}

/// How many instances are kept put together. Past that all are put together anew, so that a client
/// that makes up names cannot fill the memory.
const MAX_KNOWN: usize = 1024;

impl Instances {
    /// Instances whose stores `build` puts together.
    pub fn new(build: impl Fn(&InstanceName) -> Stores + Send + Sync + 'static) -> Self {
        Self { build: Box::new(build), known: Mutex::default() }
    }

    /// The stores of an instance.
    pub fn get(&self, name: &InstanceName) -> Stores {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stores) = known.get(name) {
            return stores.clone();
        }
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.entry(name.clone()).or_insert_with(|| (self.build)(name)).clone()
    }
}

impl fmt::Debug for Instances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instances").finish_non_exhaustive()
    }
}
