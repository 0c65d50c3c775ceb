//! What a server takes of the things that only some servers take: pure but for its log lines.
//!
//! Owns whether an endpoint gets lists of prompts, requests for several sequences, and requests for token ids that this
//! program only counts. Nothing is assumed from a server's name or the words of its refusals: what is refused is sent
//! once more without the thing in question, and if that works, the thing is given up for the endpoint.

use tracing::{info, warn};

use crate::domain::Url;

/// The optional things that one server takes, as far as is known.
#[derive(Debug)]
pub(crate) struct ServerFeatures {
    url: Url,
    lists: ListSupport,
    /// Several sequences per prompt (`n`).
    sequences: FeatureSupport,
    /// Token ids, which are requested to count or to compare them.
    token_ids: FeatureSupport,
}

/// An optional part of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feature {
    Sequences,
    TokenIds,
}

/// The use that a request makes of an optional part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FeatureUse {
    /// The request has no need of it.
    #[default]
    Unneeded,
    Used,
    /// It is left out, because the server may not take it.
    LeftOut,
}

/// Whether a server takes an optional part of requests.
#[derive(Debug, Default)]
struct FeatureSupport {
    state: SupportState,
    doubts: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum SupportState {
    #[default]
    Untried,
    /// A request with it was refused; requests are sent without it until one of them is answered or refused.
    Doubted,
    Proven,
    GivenUp,
}

/// Refusals after which a feature that was never found guilty is not doubted any more.
const MAX_DOUBTS: u8 = 3;

impl FeatureSupport {
    fn is_taken(&self) -> bool {
        matches!(self.state, SupportState::Untried | SupportState::Proven)
    }

    /// Records that a request with the feature was refused. Returns whether it is to be sent again without it.
    fn doubt(&mut self) -> bool {
        match self.state {
            SupportState::Untried if self.doubts >= MAX_DOUBTS => false,
            SupportState::Untried => {
                self.doubts += 1;
                self.state = SupportState::Doubted;
                true
            }
            SupportState::Proven => false,
            // (it was sent before the refusal of another)
            SupportState::Doubted | SupportState::GivenUp => true,
        }
    }

    /// Records that a request with the feature was answered.
    fn confirm(&mut self) {
        if self.state == SupportState::Untried {
            self.state = SupportState::Proven;
        }
    }

    /// Records whether a request without the feature was answered. Returns whether the feature is given up for that.
    fn end_doubt(&mut self, is_answered: bool) -> bool {
        if self.state != SupportState::Doubted {
            return false;
        }
        self.state = if is_answered { SupportState::GivenUp } else { SupportState::Untried };
        is_answered
    }
}

/// Whether a server answers lists of prompts.
#[derive(Debug, Default)]
struct ListSupport {
    state: SupportState,
    /// Whether a list failed that is short enough to be sent one by one. Before, a single prompt may be at fault, whose
    /// list is still being halved, and other lists go on.
    is_narrowed: bool,
    /// Prompts of failed lists that have no outcome yet since they were sent one by one.
    pending: usize,
    /// Whether one of them was answered, and whether one failed again: then the list failed because of that prompt.
    was_answered: bool,
    has_failed: bool,
    /// The weight of the failures that only lists had.
    strikes: u8,
    weight: u8,
    /// Answers since the doubt began.
    answers: usize,
    reason: String,
}

/// Strikes after which lists are given up. A refusal is worth both: a server that refuses a list refuses all of them.
/// An error or a cut connection may be chance.
const LIST_STRIKES: u8 = 2;
/// Prompts of the longest list that is sent one by one before it is known whether the server takes lists.
const MAX_DOUBTED_SINGLES: usize = 16;
/// Answers after which a doubt ends although prompts of the list have left, such as to another rank.
const MAX_DOUBT_ANSWERS: usize = 512;

impl ListSupport {
    fn is_taken(&self) -> bool {
        match self.state {
            SupportState::Untried | SupportState::Proven => true,
            SupportState::Doubted => !self.is_narrowed,
            SupportState::GivenUp => false,
        }
    }

    fn confirm(&mut self) {
        if self.state != SupportState::GivenUp {
            self.state = SupportState::Proven;
        }
    }

    /// Records that a list failed. Returns whether the outcomes of its prompts, each sent alone, are to decide.
    fn doubt(&mut self, prompts: usize, is_refusal: bool, reason: &str) -> bool {
        if matches!(self.state, SupportState::Proven | SupportState::GivenUp) {
            return false;
        }
        if self.state == SupportState::Untried {
            let strikes = self.strikes;
            *self = Self { state: SupportState::Doubted, strikes, ..Self::default() };
            self.reason = reason.to_owned();
        }
        self.pending += prompts;
        self.is_narrowed |= prompts <= MAX_DOUBTED_SINGLES;
        self.weight = self.weight.max(if is_refusal { LIST_STRIKES } else { 1 });
        true
    }

    /// Records the outcome of a prompt of a failed list: whether this server answered it alone; `None` if another one
    /// did. Returns whether lists are given up for that.
    fn settle(&mut self, is_answered: Option<bool>) -> bool {
        if self.state != SupportState::Doubted {
            return false;
        }
        self.pending = self.pending.saturating_sub(1);
        self.was_answered |= is_answered == Some(true);
        self.has_failed |= is_answered == Some(false);
        if self.pending > 0 {
            return false;
        }
        self.state = SupportState::Untried;
        if !self.was_answered || self.has_failed {
            return false;
        }
        self.strikes += self.weight;
        let gives_up = self.strikes >= LIST_STRIKES;
        if gives_up {
            self.state = SupportState::GivenUp;
        }
        gives_up
    }

    fn count_answer(&mut self) {
        if self.state == SupportState::Doubted {
            self.answers += 1;
            if self.answers > MAX_DOUBT_ANSWERS.max(4 * self.pending) {
                self.state = SupportState::Untried;
            }
        }
    }
}

impl ServerFeatures {
    pub(super) fn new(url: Url) -> Self {
        Self {
            url,
            lists: ListSupport::default(),
            sequences: FeatureSupport::default(),
            token_ids: FeatureSupport::default(),
        }
    }

    /// Returns whether the server gets lists of prompts.
    pub(crate) fn takes_lists(&self) -> bool {
        self.lists.is_taken()
    }

    /// Returns whether the prompts of a failed list are to be sent one by one. Otherwise its halves are sent: a server that
    /// answers one of them takes lists, and a long list costs few requests until the prompt at fault is found.
    pub(crate) fn needs_singles(&self, prompts: usize) -> bool {
        match self.lists.state {
            SupportState::Untried | SupportState::Proven => false,
            SupportState::Doubted => prompts <= MAX_DOUBTED_SINGLES,
            SupportState::GivenUp => true,
        }
    }

    /// Returns whether the server has answered a list.
    pub(crate) fn has_answered_lists(&self) -> bool {
        self.lists.state == SupportState::Proven
    }

    /// Records that a list was answered as a whole.
    pub(crate) fn confirm_lists(&mut self) {
        self.lists.confirm();
    }

    /// Records that a list failed. Returns whether the outcomes of its prompts, each sent alone, are to be told by
    /// [`Self::settle_list_doubt`].
    pub(crate) fn doubt_lists(&mut self, prompts: usize, is_refusal: bool, reason: &str) -> bool {
        self.lists.doubt(prompts, is_refusal, reason)
    }

    /// Records the outcome of a prompt of a failed list: whether this server answered it alone; `None` if another one
    /// did.
    pub(crate) fn settle_list_doubt(&mut self, is_answered: Option<bool>) {
        if self.lists.settle(is_answered) {
            let reason = std::mem::take(&mut self.lists.reason);
            self.tell_lists(&reason);
        }
    }

    /// Records that the reply to a list is not to be believed: the server gets no more of them.
    pub(crate) fn give_up_lists(&mut self, reason: &str) {
        if self.lists.state != SupportState::GivenUp {
            self.lists.state = SupportState::GivenUp;
            self.tell_lists(reason);
        }
    }

    fn tell_lists(&self, reason: &str) {
        info!(
            event = "lists_not_taken",
            endpoint = %self.url,
            "lists not taken by {}, prompts are sent one by one: {reason}",
            self.url
        );
    }

    /// Returns whether requests to the server may use the feature.
    pub(crate) fn takes(&self, feature: Feature) -> bool {
        match feature {
            Feature::Sequences => self.sequences.is_taken(),
            Feature::TokenIds => self.token_ids.is_taken(),
        }
    }

    /// Records that a request was refused which uses the feature, or does not. Returns whether it is to be sent again
    /// without it.
    pub(crate) fn on_refusal(&mut self, feature: Feature, use_: FeatureUse) -> bool {
        let support = self.support_mut(feature);
        match use_ {
            FeatureUse::Unneeded => false,
            FeatureUse::Used => support.doubt(),
            FeatureUse::LeftOut => {
                support.end_doubt(false);
                false
            }
        }
    }

    /// Records that a request was answered.
    pub(crate) fn on_answer(&mut self, feature: Feature, use_: FeatureUse) {
        self.lists.count_answer();
        let support = self.support_mut(feature);
        match use_ {
            FeatureUse::Unneeded => {}
            FeatureUse::Used => support.confirm(),
            FeatureUse::LeftOut => {
                if support.end_doubt(true) {
                    self.tell_feature(feature);
                }
            }
        }
    }

    /// Records that the server made fewer sequences than were asked for.
    pub(crate) fn give_up_sequences(&mut self) {
        if self.sequences.state != SupportState::GivenUp {
            self.sequences.state = SupportState::GivenUp;
            self.tell_feature(Feature::Sequences);
        }
    }

    fn support_mut(&mut self, feature: Feature) -> &mut FeatureSupport {
        match feature {
            Feature::Sequences => &mut self.sequences,
            Feature::TokenIds => &mut self.token_ids,
        }
    }

    fn tell_feature(&self, feature: Feature) {
        let endpoint = &self.url;
        match feature {
            Feature::Sequences => info!(
                event = "sequences_not_taken",
                %endpoint,
                "n not taken by {endpoint}, each sequence is a request of its own"
            ),
            Feature::TokenIds => warn!(
                event = "token_ids_not_taken",
                %endpoint,
                "token ids not returned by {endpoint}, token counts of lists are estimates"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features() -> ServerFeatures {
        ServerFeatures::new(Url::loopback(1))
    }

    #[test]
    fn lists_are_given_up_once_their_prompts_are_answered_alone() {
        let mut server = features();
        assert!(server.doubt_lists(3, true, "400") && !server.takes_lists());
        server.settle_list_doubt(Some(true));
        server.settle_list_doubt(None);
        assert!(server.doubt_lists(1, true, "400"), "it was sent before");
        server.settle_list_doubt(Some(true));
        server.settle_list_doubt(Some(true));
        assert!(!server.takes_lists() && !server.doubt_lists(2, true, "400"));
        server.confirm_lists();
        assert!(!server.takes_lists(), "given up for good");
    }

    #[test]
    fn a_prompt_that_fails_alone_too_clears_lists_of_the_doubt() {
        let mut server = features();
        for _ in 0..9 {
            assert!(server.doubt_lists(2, true, "400"));
            server.settle_list_doubt(Some(true));
            server.settle_list_doubt(Some(false));
            assert!(server.takes_lists());
        }
        assert!(server.doubt_lists(1, true, "400"));
        server.settle_list_doubt(None);
        assert!(server.takes_lists(), "another server has answered it, which says nothing");
    }

    #[test]
    fn an_error_may_be_chance_and_counts_half() {
        let mut server = features();
        assert!(server.doubt_lists(1, false, "500"));
        server.settle_list_doubt(Some(true));
        assert!(server.takes_lists() && server.doubt_lists(1, false, "500"));
        server.settle_list_doubt(Some(true));
        assert!(!server.takes_lists());
        let mut server = features();
        server.confirm_lists();
        assert!(!server.doubt_lists(4, false, "500") && server.takes_lists(), "it answered one");
        server.give_up_lists("joined");
        assert!(!server.takes_lists(), "replies that are not to be believed are no chance");
    }

    #[test]
    fn a_doubt_does_not_outlast_prompts_that_have_left() {
        let mut server = features();
        assert!(server.doubt_lists(1, true, "400"));
        for _ in 0..=MAX_DOUBT_ANSWERS {
            server.on_answer(Feature::TokenIds, FeatureUse::Unneeded);
        }
        assert!(server.takes_lists());
    }

    #[test]
    fn a_feature_is_given_up_if_requests_without_it_are_answered() {
        for feature in [Feature::Sequences, Feature::TokenIds] {
            let mut server = features();
            assert!(server.on_refusal(feature, FeatureUse::Used) && !server.takes(feature));
            assert!(server.on_refusal(feature, FeatureUse::Used), "it was sent before");
            server.on_answer(feature, FeatureUse::LeftOut);
            assert!(!server.takes(feature) && server.on_refusal(feature, FeatureUse::Used));
            let mut server = features();
            for _ in 0..MAX_DOUBTS {
                assert!(server.on_refusal(feature, FeatureUse::Used));
                assert!(!server.on_refusal(feature, FeatureUse::LeftOut) && server.takes(feature));
            }
            assert!(!server.on_refusal(feature, FeatureUse::Used), "it is not the reason");
            let mut server = features();
            server.on_answer(feature, FeatureUse::Used);
            assert!(!server.on_refusal(feature, FeatureUse::Used) && server.takes(feature));
        }
    }
}
