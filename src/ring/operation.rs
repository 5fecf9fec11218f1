//! An operation the kernel works on until it completes, possibly many times (multishot), and that can be cancelled.
//!
//! Invariant: a new life starts only when the last one has completed *and* the answer to its cancellation has been read, so
//! a cancellation never hits an operation it was not meant for. It submits nothing itself: its owner asks what is due.

/// One operation of a connection, a listener or the watch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Operation {
    in_flight: bool,
    cancel: Cancel,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Cancel {
    #[default]
    None,
    /// Submitted, not answered.
    Asked,
    /// Answered: the operation was found and will complete soon.
    Granted,
}

impl Operation {
    /// Whether the kernel holds it.
    pub fn is_in_flight(self) -> bool {
        self.in_flight
    }

    /// Whether nothing of it, nor of its cancellation, will complete any more.
    pub fn is_idle(self) -> bool {
        !self.in_flight && self.cancel != Cancel::Asked
    }

    /// Whether a cancellation would be new and have something to hit.
    pub fn is_cancellable(self) -> bool {
        self.in_flight && self.cancel == Cancel::None
    }

    pub fn started(&mut self) {
        assert!(self.is_idle(), "an operation starts when its last life is over");
        *self = Operation { in_flight: true, cancel: Cancel::None };
    }

    /// The last completion came.
    pub fn finished(&mut self) {
        assert!(self.in_flight, "only an operation in flight completes");
        self.in_flight = false;
        if self.cancel == Cancel::Granted {
            self.cancel = Cancel::None;
        }
    }

    pub fn cancel_asked(&mut self) {
        assert!(self.is_cancellable(), "one cancellation at a time");
        self.cancel = Cancel::Asked;
    }

    /// The cancellation was answered. One that was not `found` while the operation is still in flight met it between two
    /// of its waits, where the kernel cannot find it, and has to be asked again.
    pub fn cancel_answered(&mut self, found: bool) {
        assert!(self.cancel == Cancel::Asked, "only a question is answered");
        self.cancel = if found && self.in_flight { Cancel::Granted } else { Cancel::None };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_granted_cancellation_ends_with_the_operation() {
        let mut operation = Operation::default();
        operation.started();
        operation.cancel_asked();
        operation.cancel_answered(true);
        assert!(!operation.is_cancellable(), "asking twice is useless");
        assert!(!operation.is_idle());
        operation.finished();
        assert!(operation.is_idle());
    }

    #[test]
    fn an_operation_does_not_restart_before_its_cancellation_is_answered() {
        let mut operation = Operation::default();
        operation.started();
        operation.cancel_asked();
        operation.finished();
        assert!(!operation.is_idle());
        operation.cancel_answered(false);
        assert!(operation.is_idle());
    }

    #[test]
    fn a_missed_cancellation_can_be_asked_again() {
        let mut operation = Operation::default();
        operation.started();
        operation.cancel_asked();
        operation.cancel_answered(false);
        assert!(operation.is_cancellable());
    }
}
