//! The location of an outcome's line in 16 bytes: a rank may have to keep one for each of ten million prompts. Pure.
//!
//! From the highest bit down: the prompt's index 37, the outcome's grade 4, the file's number 20 (its complement where
//! the latest counts), the line's offset 44, its length 23. The order of the packed numbers is therefore by prompt and,
//! among the lines of one prompt, the line that counts first (see [`LinePrecedence`](super::LinePrecedence)), provided
//! that files are numbered in order of session and rank.

use super::{LineEntry, line_grade::LineGrade};

const INDEX_BITS: u32 = 37;
const GRADE_BITS: u32 = LineGrade::BITS;
const FILE_BITS: u32 = 20;
const OFFSET_BITS: u32 = 44;
const LENGTH_BITS: u32 = 23;

/// Packed location of one line: prompt index, grade, file number, offset and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LineLocation(u128);

impl LineLocation {
    /// Packs the location of an entry that is in the file with this number.
    ///
    /// # Errors
    /// Fails with a sentence if a number is too large for its bits.
    pub(crate) fn new(entry: &LineEntry, file: usize) -> Result<Self, &'static str> {
        let file = file as u64;
        if entry.index >> INDEX_BITS != 0 {
            return Err("the input has more than 137,438,953,472 rows");
        }
        if file >> FILE_BITS != 0 {
            return Err(
                "one rank has to read more than 1,048,576 shard files\nhint: use more ranks",
            );
        }
        if entry.offset >> OFFSET_BITS != 0 {
            return Err("a shard file is larger than 16 TiB");
        }
        let length = u128::from(entry.length.min(Self::MAX_LENGTH));
        let mut packed = u128::from(entry.index);
        for (value, bits) in [
            (entry.grade.bits().into(), GRADE_BITS),
            (ordered_file(entry.grade, file).into(), FILE_BITS),
            (entry.offset.into(), OFFSET_BITS),
            (length, LENGTH_BITS),
        ] {
            packed = packed << bits | value;
        }
        Ok(Self(packed))
    }

    /// Stored for this and every greater length.
    const MAX_LENGTH: u32 = (1 << LENGTH_BITS) - 1;

    /// Index of the prompt in the input.
    #[must_use]
    pub(crate) fn prompt_index(self) -> u64 {
        self.extract_bits(GRADE_BITS + FILE_BITS + OFFSET_BITS + LENGTH_BITS, INDEX_BITS)
    }

    /// Grade of the outcome.
    #[must_use]
    pub(crate) fn grade(self) -> LineGrade {
        LineGrade::from_bits(self.extract_bits(FILE_BITS + OFFSET_BITS + LENGTH_BITS, GRADE_BITS))
    }

    /// Number of the shard file.
    #[must_use]
    pub(crate) fn file_number(self) -> usize {
        ordered_file(self.grade(), self.extract_bits(OFFSET_BITS + LENGTH_BITS, FILE_BITS)) as usize
    }

    /// Offset of the line in its file, in bytes.
    #[must_use]
    pub(crate) fn line_offset(self) -> u64 {
        self.extract_bits(LENGTH_BITS, OFFSET_BITS)
    }

    /// Length of the line in bytes; `None` for 8 MiB or more, which the caller has to store elsewhere.
    #[must_use]
    pub(crate) fn line_length(self) -> Option<u32> {
        let length = self.extract_bits(0, LENGTH_BITS) as u32;
        (length < Self::MAX_LENGTH).then_some(length)
    }

    fn extract_bits(self, shift: u32, bit_count: u32) -> u64 {
        (self.0 >> shift) as u64 & ((1 << bit_count) - 1)
    }
}

/// Returns the file's number, or its complement if the latest file counts; its own inverse.
fn ordered_file(grade: LineGrade, file: u64) -> u64 {
    if grade.prefers_latest() { (1 << FILE_BITS) - 1 - file } else { file }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shards::LinePrecedence;
    use proptest::prelude::*;

    fn line_entry(index: u64, offset: u64, length: u32, grade: u64) -> LineEntry {
        let grade = LineGrade::from_bits(grade);
        LineEntry { index, offset, length, grade, is_retryable: false }
    }

    fn any_location() -> impl Strategy<Value = (LineEntry, usize)> {
        // Few values, so that the later fields decide often; and the ends of the ranges.
        let index = prop_oneof![0u64..3, (1u64 << 37) - 2..1 << 37];
        let offset = prop_oneof![0u64..3, (1u64 << 44) - 2..1 << 44];
        let length = prop_oneof![0u32..3, (1u32 << 23) - 3..1 << 23, u32::MAX - 1..=u32::MAX];
        let file = prop_oneof![0usize..3, (1usize << 20) - 2..1 << 20];
        (index, offset, length, 0u64..9, file).prop_map(|(index, offset, length, grade, file)| {
            (line_entry(index, offset, length, grade), file)
        })
    }

    proptest! {
        #[test]
        fn every_field_is_read_back_as_it_was_packed((entry, file) in any_location()) {
            let location = LineLocation::new(&entry, file).expect("it fits");
            prop_assert_eq!(location.prompt_index(), entry.index);
            prop_assert_eq!(location.grade(), entry.grade);
            prop_assert_eq!(location.file_number(), file);
            prop_assert_eq!(location.line_offset(), entry.offset);
            prop_assert_eq!(location.line_length(), (entry.length < (1 << 23) - 1).then_some(entry.length));
        }

        #[test]
        fn the_order_is_by_prompt_precedence_and_offset(a in any_location(), b in any_location()) {
            let key = |(entry, file): &(LineEntry, usize)| {
                (entry.index, LinePrecedence::new(entry.grade, *file as u32, 0), entry.offset)
            };
            let location = |(entry, file): &(LineEntry, usize)| LineLocation::new(entry, *file).expect("it fits");
            prop_assume!(key(&a) != key(&b));
            prop_assert_eq!(location(&a).cmp(&location(&b)), key(&a).cmp(&key(&b)));
        }
    }

    #[test]
    fn a_number_that_does_not_fit_is_an_error_and_not_truncated() {
        assert!(LineLocation::new(&line_entry(1 << 37, 0, 1, 0), 0).is_err());
        assert!(LineLocation::new(&line_entry(0, 1 << 44, 1, 0), 0).is_err());
        assert!(LineLocation::new(&line_entry(0, 0, 1, 0), 1 << 20).is_err());
        assert_eq!(size_of::<LineLocation>(), 16);
    }
}
