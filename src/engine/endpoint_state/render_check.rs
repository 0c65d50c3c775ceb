//! May conversations be rendered here for an endpoint? Pure.
//!
//! Owns the count of canaries: a few conversations go both ways first, and only if all of them came to the same are others
//! sent as texts in lists. Until then, and for ever after one that differed, conversations go one by one.

/// Of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Nobody renders here.
    Off,
    /// So many came to the same, so many are under way.
    Testing { same: u8, out: u8 },
    /// As good as the server's own.
    Given,
    /// Not for this endpoint.
    Denied,
}

/// Canaries that have to come to the same.
const CANARIES: u8 = 3;

impl Trust {
    pub(crate) fn new(renders: bool) -> Self {
        if renders { Self::Testing { same: 0, out: 0 } } else { Self::Off }
    }

    /// Should the next conversation be a canary? Then it counts as one.
    pub(crate) fn takes_canary(&mut self) -> bool {
        match self {
            Self::Testing { same, out } if *same + *out < CANARIES => {
                *out += 1;
                true
            }
            _ => false,
        }
    }

    /// A canary came back: the same, not the same, or nothing was learnt. True if this decides it.
    pub(crate) fn came_back(&mut self, same: Option<bool>) -> bool {
        let Self::Testing { same: sames, out } = self else { return false };
        *out = out.saturating_sub(1);
        match same {
            Some(true) => *sames += 1,
            Some(false) => *self = Self::Denied,
            None => {}
        }
        if let Self::Testing { same: CANARIES.., .. } = self {
            *self = Self::Given;
        }
        !matches!(self, Self::Testing { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_that_are_the_same_give_trust_and_one_that_differs_denies_it() {
        let mut trust = Trust::new(true);
        assert!((0..3).all(|_| trust.takes_canary()) && !trust.takes_canary());
        assert!(!trust.came_back(Some(true)) && !trust.came_back(None));
        assert!(trust.takes_canary(), "nothing was learnt from one");
        assert!(!trust.came_back(Some(true)) && trust.came_back(Some(true)));
        assert_eq!(trust, Trust::Given);
        let mut trust = Trust::new(true);
        assert!(trust.takes_canary() && trust.came_back(Some(false)));
        assert!(trust == Trust::Denied && !trust.takes_canary());
        assert!(!Trust::new(false).takes_canary());
    }
}
