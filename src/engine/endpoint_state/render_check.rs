//! May conversations be rendered here for an endpoint? Pure.
//!
//! Owns the count of canaries: a few conversations go both ways first, and only if all of them came to the same are others
//! sent as texts in lists. Until then, and for ever after one that differed, conversations go one by one.

/// Of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RenderCheck {
    /// Nobody renders here.
    Disabled,
    /// So many came to the same, so many are under way.
    Testing { matched: u8, outstanding: u8 },
    /// As good as the server's own.
    Passed,
    /// Not for this endpoint.
    Failed,
}

/// Canaries that have to come to the same.
const REQUIRED_CANARIES: u8 = 3;

impl RenderCheck {
    pub(crate) fn new(renders: bool) -> Self {
        if renders { Self::Testing { matched: 0, outstanding: 0 } } else { Self::Disabled }
    }

    /// Should the next conversation be a canary? Then it counts as one.
    pub(crate) fn try_take_canary(&mut self) -> bool {
        match self {
            Self::Testing { matched: same, outstanding: out }
                if *same + *out < REQUIRED_CANARIES =>
            {
                *out += 1;
                true
            }
            _ => false,
        }
    }

    /// A canary came back: the same, not the same, or nothing was learnt. True if this decides it.
    pub(crate) fn record_canary(&mut self, same: Option<bool>) -> bool {
        let Self::Testing { matched: sames, outstanding: out } = self else { return false };
        *out = out.saturating_sub(1);
        match same {
            Some(true) => *sames += 1,
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
        let mut trust = RenderCheck::new(true);
        assert!((0..3).all(|_| trust.try_take_canary()) && !trust.try_take_canary());
        assert!(!trust.record_canary(Some(true)) && !trust.record_canary(None));
        assert!(trust.try_take_canary(), "nothing was learnt from one");
        assert!(!trust.record_canary(Some(true)) && trust.record_canary(Some(true)));
        assert_eq!(trust, RenderCheck::Passed);
        let mut trust = RenderCheck::new(true);
        assert!(trust.try_take_canary() && trust.record_canary(Some(false)));
        assert!(trust == RenderCheck::Failed && !trust.try_take_canary());
        assert!(!RenderCheck::new(false).try_take_canary());
    }
}
