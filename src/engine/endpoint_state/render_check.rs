//! The check that conversations rendered here match the server's own rendering: pure.
//!
//! Owns the count of canaries. A few conversations are sent both ways first, and only if all of them match are others
//! sent as texts in batches. Until then, and for ever after a mismatch, conversations go one by one. How a canary is
//! compared is in `endpoint::canary`.

/// The state of the check for one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RenderCheck {
    /// There is no renderer.
    Disabled,
    /// Canaries are sent: this many matched, this many are under way.
    Testing { matched: u8, outstanding: u8 },
    /// All canaries matched.
    Passed,
    /// A canary differed.
    Failed,
}

/// The canaries that have to match.
const REQUIRED_CANARIES: u8 = 3;

impl RenderCheck {
    pub(crate) fn new(has_renderer: bool) -> Self {
        if has_renderer { Self::Testing { matched: 0, outstanding: 0 } } else { Self::Disabled }
    }

    /// Returns whether the next conversation is to be a canary, and counts it as one.
    pub(crate) fn try_take_canary(&mut self) -> bool {
        match self {
            Self::Testing { matched, outstanding }
                if *matched + *outstanding < REQUIRED_CANARIES =>
            {
                *outstanding += 1;
                true
            }
            _ => false,
        }
    }

    /// Records whether a canary matched; none if it was inconclusive. Returns whether that decides the check.
    pub(crate) fn record_canary(&mut self, is_match: Option<bool>) -> bool {
        let Self::Testing { matched, outstanding } = self else { return false };
        *outstanding = outstanding.saturating_sub(1);
        match is_match {
            Some(true) => *matched += 1,
            Some(false) => *self = Self::Failed,
            None => {}
        }
        if let Self::Testing { matched: REQUIRED_CANARIES.., .. } = self {
            *self = Self::Passed;
        }
        !matches!(self, Self::Testing { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matching_canaries_pass_the_check_and_one_difference_fails_it() {
        let mut check = RenderCheck::new(true);
        assert!((0..3).all(|_| check.try_take_canary()) && !check.try_take_canary());
        assert!(!check.record_canary(Some(true)) && !check.record_canary(None));
        assert!(check.try_take_canary(), "one was inconclusive");
        assert!(!check.record_canary(Some(true)) && check.record_canary(Some(true)));
        assert_eq!(check, RenderCheck::Passed);
        let mut check = RenderCheck::new(true);
        assert!(check.try_take_canary() && check.record_canary(Some(false)));
        assert!(check == RenderCheck::Failed && !check.try_take_canary());
        assert!(!RenderCheck::new(false).try_take_canary());
    }
}
