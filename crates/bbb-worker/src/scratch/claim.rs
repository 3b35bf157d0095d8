//! What the folder of one action takes of the store's room.

use std::sync::{Arc, Mutex, PoisonError};

use bbb_storage::{Error as Storage, Lodging, Reservation};

/// Room that the folder of an action takes; given back when the last who holds this lets go, which is the one who empties the folder.
#[derive(Debug, Default)]
pub(crate) struct Claim {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: Option<Reservation>,
    /// The action writes no more: what there is only becomes less.
    is_closed: bool,
}

impl Claim {
    /// Holds as much as was measured while the action ran.
    ///
    /// # Errors
    /// [`Storage::Full`] if there is no room for all of it; what is held stays held.
    pub(crate) async fn hold(&self, bytes: u64, lodging: &Arc<dyn Lodging>) -> Result<(), Storage> {
        let more_bytes = {
            let mut state = self.state();
            if state.is_closed {
                return Ok(());
            }
            let held_bytes = state.held.as_ref().map_or(0, Reservation::bytes);
            if let Some(held) = &mut state.held {
                held.give_back(held_bytes.saturating_sub(bytes));
            }
            bytes.saturating_sub(held_bytes)
        };
        if more_bytes == 0 {
            return Ok(());
        }
        let more = lodging.reserve(more_bytes).await?;
        let mut state = self.state();
        match &mut state.held {
            Some(held) => held.absorb(more),
            none => *none = Some(more),
        }
        Ok(())
    }

    /// The action has ended.
    pub(crate) fn close(&self) {
        self.state().is_closed = true;
    }

    /// Gives back the room of a file that is about to be counted by the store itself.
    pub(crate) fn hand_over(&self, bytes: u64) {
        if let Some(held) = &mut self.state().held {
            held.give_back(bytes);
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
