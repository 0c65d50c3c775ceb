//! Timelines of endpoints: `RUN/timelines.jsonl`, appended by rank 0 whenever all ranks finished their work in order.
//!
//! A killed session has none. A line is at most 1.3 MB for any duration and number of endpoints. The data type is
//! [`Timeline`], in `metrics/timeline.rs`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{
    OutputError,
    json_lines_log::{append_json_line, read_json_lines},
};
use crate::metrics::timeline::Timeline;

/// Timeline of a session. A session that works several times (the levels of a reduce) has several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StartTimeline {
    pub start: u32,
    /// Seconds from the start of the session to the start of the work.
    pub offset: f64,
    /// Load of the endpoints from then on.
    pub timeline: Timeline,
}

/// Appends a timeline to the file of a run folder.
///
/// # Errors
/// Fails if the file cannot be written.
pub(crate) fn append_timeline(folder: &Path, timeline: &StartTimeline) -> Result<(), OutputError> {
    append_json_line(&folder.join(TIMELINES_FILE), timeline)
}

/// Reads all timelines of a run in order; a missing file has none, and torn lines are skipped.
#[must_use]
pub(crate) fn read_timelines(folder: &Path) -> Vec<StartTimeline> {
    read_json_lines(&folder.join(TIMELINES_FILE))
}

const TIMELINES_FILE: &str = "timelines.jsonl";

#[cfg(test)]
mod tests {
    use std::{fs::OpenOptions, io::Write};

    use super::*;
    use crate::metrics::timeline::{EndpointSnapshot, TimelineSlot};

    #[test]
    fn timelines_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(read_timelines(folder.path()), []);
        let mut all = Vec::new();
        for start in 1..3 {
            let (mut timeline, seat) =
                (Timeline::default(), TimelineSlot::for_endpoint(3, 9, "n1 http://h".into()));
            timeline.register_endpoint(&seat);
            timeline.record_interval(
                &seat,
                100,
                90_000,
                EndpointSnapshot { in_flight: 3, window: 8, is_up: true, is_full: false },
            );
            timeline.away.record_downtime(&seat.name, 10, true);
            let one = StartTimeline { start, offset: 0.5, timeline };
            append_timeline(folder.path(), &one).expect("written");
            all.push(one);
        }
        let mut file = OpenOptions::new()
            .append(true)
            .open(folder.path().join(TIMELINES_FILE))
            .expect("there");
        file.write_all(b"{\"start\":3,").expect("torn");
        assert_eq!(read_timelines(folder.path()), all);
    }
}
