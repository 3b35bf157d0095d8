//! What clocks on the wall show on each machine, which is not always right, and names by the simulation's chance.

use std::{
    sync::Mutex,
    time::{Duration, SystemTime},
};

use bbb_scheduler::{Ids, OperationId};

use crate::world::{World, lock};

/// The clock of one machine. It outlives the processes there.
#[derive(Debug)]
pub(crate) struct Clock {
    world: World,
    /// By how much it is ahead, and by how much behind.
    off: Mutex<(Duration, Duration)>,
}

impl Clock {
    pub(crate) fn new(world: &World) -> Self {
        Self { world: world.clone(), off: Mutex::default() }
    }

    /// It jumps to a time that is wrong by so much.
    pub(crate) fn jump(&self, ahead: Duration, behind: Duration) {
        *lock(&self.off) = (ahead, behind);
    }

    pub(crate) fn now(&self) -> SystemTime {
        let (ahead, behind) = *lock(&self.off);
        self.world.wall() + ahead - behind
    }
}

impl Ids for Clock {
    fn operation(&self) -> OperationId {
        OperationId(self.world.bits())
    }

    fn wall(&self) -> SystemTime {
        self.now()
    }
}
