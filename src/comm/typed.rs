//! Typed values between ranks: serde over the bytes of [`Comm`].

use serde::{Serialize, de::DeserializeOwned};

use super::{Comm, CommError, MessageTag, PollBackoff, codec, gather_in_rounds, tree};
use crate::domain::Merge;

/// Collectives and messages with typed values. Implemented for every [`Comm`].
pub trait TypedComm: Comm {
    /// Collective. Returns rank 0's value on every rank; values that other ranks pass are dropped.
    ///
    /// # Errors
    /// Returns an error if the value cannot be encoded (on rank 0; the other ranks then return an error too) or
    /// decoded.
    fn broadcast_value<T: Serialize + DeserializeOwned>(
        &mut self,
        value: Option<T>,
    ) -> Result<T, CommError> {
        // A value that cannot be encoded is sent as no value: an error on every rank, never a hang.
        let encoded = if self.rank() == 0 { codec::encode_value(&value) } else { Ok(Vec::new()) };
        let mut bytes = encoded.clone().unwrap_or_default();
        self.broadcast_bytes(&mut bytes);
        encoded?;
        let missing = CommError::WrongPartCount { parts: 0, size: self.size() };
        if self.rank() == 0 {
            return value.ok_or(missing);
        }
        codec::decode_bytes::<Option<T>>(0, &bytes)?.ok_or(missing)
    }

    /// Collective. Distributes rank 0's values, one per rank in rank order, and returns this rank's own.
    ///
    /// # Errors
    /// Returns an error if the number of values differs from the number of ranks, or a value cannot be encoded or
    /// decoded.
    fn scatter_values<T: Serialize + DeserializeOwned>(
        &mut self,
        values: Option<Vec<T>>,
    ) -> Result<T, CommError> {
        let parts = values.map(|values| values.iter().map(codec::encode_value).collect());
        let parts: Option<Result<Vec<_>, _>> = parts;
        let (parts, error) = match parts.transpose() {
            Ok(parts) => (parts, None),
            Err(error) => (None, Some(error)), // an empty scatter returns an error on the other ranks
        };
        let mine = self.scatter_bytes(parts);
        match error {
            Some(error) => Err(error),
            None => codec::decode_bytes(0, &mine?),
        }
    }

    /// Collective. Returns every rank's value at rank 0 in rank order, and `None` elsewhere. The sum of their sizes is
    /// not limited.
    ///
    /// # Errors
    /// Returns an error if a value cannot be encoded or decoded.
    fn gather_values<T: Serialize + DeserializeOwned>(
        &mut self,
        mine: &T,
    ) -> Result<Option<Vec<T>>, CommError> {
        // A value that cannot be encoded is sent as no bytes, which rank 0 cannot decode: an error, never a hang.
        let bytes = codec::encode_value(mine).unwrap_or_default();
        let mut encoded = vec![Vec::new(); if self.rank() == 0 { self.size() } else { 0 }];
        gather_in_rounds(self, &bytes, VALUES_ROUND_BYTES, |rank, piece| {
            encoded[rank].extend_from_slice(piece);
        });
        if self.rank() != 0 {
            return Ok(None);
        }
        let values =
            encoded.iter().enumerate().map(|(from, bytes)| codec::decode_bytes(from, bytes));
        values.collect::<Result<Vec<T>, _>>().map(Some)
    }

    /// Collective. Merges all ranks' values in rank order along a tree; returns the result at rank 0 and `None`
    /// elsewhere. A rank holds no more than its own subtree.
    ///
    /// # Errors
    /// Returns an error if a value cannot be encoded or decoded.
    fn reduce_values<T: Merge + Serialize + DeserializeOwned>(
        &mut self,
        mut mine: T,
    ) -> Result<Option<T>, CommError> {
        for child in tree::child_ranks(self.rank(), self.size()) {
            let message = wait_for_message(self, child, MessageTag::TreeReduce);
            mine.merge(codec::decode_bytes(child, &message)?);
        }
        let Some(parent) = tree::parent_rank(self.rank()) else { return Ok(Some(mine)) };
        self.send_bytes(parent, MessageTag::TreeReduce, codec::encode_value(&mine)?)?;
        // Bytes move only during calls of the communicator, and this rank's next one may be far away.
        let mut backoff = PollBackoff::for_transfer();
        while self.pending_messages() > 0 {
            backoff.sleep_next();
        }
        Ok(None)
    }

    /// Local. Starts sending a value to another rank.
    ///
    /// # Errors
    /// See [`Comm::send_bytes`]; also returns [`CommError::Encode`] if the value cannot be encoded.
    fn send_value<T: Serialize>(
        &mut self,
        to: usize,
        tag: MessageTag,
        value: &T,
    ) -> Result<(), CommError> {
        self.send_bytes(to, tag, codec::encode_value(value)?)
    }

    /// Local. Returns the next value that has arrived with this tag, and its sender.
    ///
    /// # Errors
    /// Returns [`CommError::Decode`] if it cannot be decoded.
    fn try_receive_value<T: DeserializeOwned>(
        &mut self,
        from: Option<usize>,
        tag: MessageTag,
    ) -> Result<Option<(usize, T)>, CommError> {
        let Some(message) = self.try_receive(from, tag) else { return Ok(None) };
        Ok(Some((message.from, codec::decode_bytes(message.from, &message.bytes)?)))
    }

    /// Local. Sleeps until a value from rank `from` has arrived, and returns it.
    ///
    /// # Errors
    /// Returns [`CommError::Decode`] if it cannot be decoded.
    fn wait_for_value<T: DeserializeOwned>(
        &mut self,
        from: usize,
        tag: MessageTag,
    ) -> Result<T, CommError> {
        let message = wait_for_message(self, from, tag);
        codec::decode_bytes(from, &message)
    }
}

impl<C: Comm + ?Sized> TypedComm for C {}

/// Bytes per round when values are gathered; they are small (reports, facts about a node).
const VALUES_ROUND_BYTES: usize = 16 << 20;

fn wait_for_message<C: Comm + ?Sized>(comm: &mut C, from: usize, tag: MessageTag) -> Vec<u8> {
    let mut backoff = PollBackoff::for_long_wait();
    loop {
        if let Some(message) = comm.try_receive(Some(from), tag) {
            return message.bytes;
        }
        if comm.pending_messages() > 0 {
            backoff.reset();
        }
        backoff.sleep_next();
    }
}
