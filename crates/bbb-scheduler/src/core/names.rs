//! What an operation is called. Each that hands it in may have a name of its own for it; all see the same operation.

use crate::OperationId;

/// One name of an operation, and what its bearer wants.
#[derive(Clone, Copy, Debug)]
struct Name {
    id: OperationId,
    watched: bool,
    /// It is forgotten as soon as the operation has ended.
    forget: bool,
}

/// The names of one operation: never none.
#[derive(Debug)]
pub(super) struct Names {
    first: Name,
    further: Vec<Name>,
}

impl Names {
    pub(super) fn new(id: OperationId, watched: bool) -> Self {
        Self { first: Name { id, watched, forget: false }, further: Vec::new() }
    }

    /// The name that workers know it by.
    pub(super) fn first(&self) -> OperationId {
        self.first.id
    }

    pub(super) fn len(&self) -> usize {
        self.further.len() + 1
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = OperationId> {
        self.each().map(|name| name.id)
    }

    /// Adds a name that it does not have yet.
    pub(super) fn add(&mut self, id: OperationId, watched: bool) {
        self.further.push(Name { id, watched, forget: false });
    }

    /// Whether it is watched under any of its names.
    pub(super) fn are_watched(&self) -> bool {
        self.each().any(|name| name.watched)
    }

    pub(super) fn set_watched(&mut self, id: OperationId, watched: bool) {
        if let Some(name) = self.named(id) {
            name.watched = watched;
        }
    }

    pub(super) fn set_forget(&mut self, id: OperationId, forget: bool) {
        if let Some(name) = self.named(id) {
            name.forget = forget;
        }
    }

    /// The names that are not wanted beyond its end.
    pub(super) fn forgotten(&self) -> impl Iterator<Item = OperationId> {
        self.each().filter(|name| name.forget).map(|name| name.id)
    }

    /// Takes a name away, unless it is the last.
    pub(super) fn remove(&mut self, id: OperationId) {
        if self.first.id == id && !self.further.is_empty() {
            self.first = self.further.remove(0);
        } else {
            self.further.retain(|name| name.id != id);
        }
    }

    fn each(&self) -> impl Iterator<Item = &Name> {
        std::iter::once(&self.first).chain(&self.further)
    }

    fn named(&mut self, id: OperationId) -> Option<&mut Name> {
        std::iter::once(&mut self.first).chain(&mut self.further).find(|name| name.id == id)
    }
}
