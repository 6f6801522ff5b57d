//! Places for connections: how many there may be at once, over all listeners.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// The places of a server. Their number can change while some are taken.
#[derive(Debug)]
pub(crate) struct Places {
    state: Mutex<State>,
    /// Told when a place becomes free.
    freed: Notify,
}

#[derive(Debug)]
struct State {
    taken: usize,
    limit: usize,
}

/// One place. Free again when dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Places>);

impl Places {
    pub(crate) fn new(limit: usize) -> Self {
        Self { state: Mutex::new(State { taken: 0, limit }), freed: Notify::new() }
    }

    /// Returns how many are taken.
    pub(crate) fn taken(&self) -> usize {
        self.state().taken
    }

    /// Returns how many may be taken.
    pub(crate) fn limit(&self) -> usize {
        self.state().limit
    }

    /// Changes how many may be taken. Whoever has one keeps it.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.state().limit = limit;
        self.freed.notify_waiters();
    }

    /// Takes a place, also beyond the limit: for a connection that is accepted already.
    pub(crate) fn enter(self: &Arc<Self>) -> Place {
        self.state().taken += 1;
        Place(Arc::clone(self))
    }

    /// Waits until a place is free, without taking it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub(crate) async fn free(&self) {
        loop {
            let mut freed = pin!(self.freed.notified());
            // Registers before the look, so that a place that becomes free after it is noticed.
            freed.as_mut().enable();
            if !self.is_full() {
                break;
            }
            freed.await;
        }
        // The place is still free: the next in line may have it as well.
        self.freed.notify_one();
    }

    pub(crate) fn is_full(&self) -> bool {
        let state = self.state();
        state.taken >= state.limit
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.state().taken -= 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task::spawn};

    use super::*;

    #[test]
    fn a_place_is_free_again_when_dropped() {
        let places = Arc::new(Places::new(1));
        let place = places.enter();
        assert_eq!(places.taken(), 1);
        assert!(places.is_full());
        drop(place);
        assert_eq!(places.taken(), 0);
        assert!(!places.is_full());
    }

    #[test]
    fn whoever_waits_learns_of_the_place_that_becomes_free() {
        let places = Arc::new(Places::new(1));
        let place = places.enter();
        let mut waiting = spawn(places.free());
        assert_pending!(waiting.poll());
        drop(place);
        assert!(waiting.is_woken());
        assert_ready!(waiting.poll());
    }

    #[test]
    fn a_place_that_becomes_free_is_not_lost_on_one_who_gave_up() {
        let places = Arc::new(Places::new(1));
        let place = places.enter();
        let mut gone = spawn(places.free());
        let mut waiting = spawn(places.free());
        assert_pending!(gone.poll());
        assert_pending!(waiting.poll());
        drop(place);
        drop(gone);
        assert!(waiting.is_woken());
        assert_ready!(waiting.poll());
    }

    #[test]
    fn all_who_wait_for_a_free_place_learn_of_it() {
        let places = Arc::new(Places::new(1));
        let place = places.enter();
        let (mut one, mut other) = (spawn(places.free()), spawn(places.free()));
        assert_pending!(one.poll());
        assert_pending!(other.poll());
        drop(place);
        assert_ready!(one.poll());
        assert!(other.is_woken());
        assert_ready!(other.poll());
    }

    #[test]
    fn a_lower_limit_takes_no_place_away_and_a_higher_one_holds_at_once() {
        let places = Arc::new(Places::new(2));
        let held = (places.enter(), places.enter());
        places.set_limit(1);
        let mut waiting = spawn(places.free());
        assert_pending!(waiting.poll());

        drop(held.0);
        assert_pending!(waiting.poll());
        places.set_limit(2);
        assert!(waiting.is_woken());
        assert_ready!(waiting.poll());
    }
}
