//! The result of `check`: hosts and ranks, the servers of each rank, and whether they are ready.
//!
//! Owns the table and its summary lines. The probing itself is in [`endpoint`](crate::endpoint).

use comfy_table::{ContentArrangement, LineStyle, Table, presets::UTF8_HORIZONTAL_ONLY};
use serde::{Deserialize, Serialize};

use super::terminal::stdout_columns;
use crate::domain::{EndpointStatus, ProbeResult, ServedModel, ServerInfo, ServerRoutes};
use crate::report::format::pluralize;

/// Findings of `check` over all ranks. The field names are the keys of `check --json`.
#[derive(Debug, Serialize)]
pub(crate) struct CheckReport {
    /// Description of the message layer: the MPI library, or a single process.
    pub mpi: String,
    /// Number of servers that are ready.
    pub ready: usize,
    pub endpoints: usize,
    /// Findings of each rank, in rank order.
    pub ranks: Vec<CheckedRank>,
}

/// Findings of one rank.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CheckedRank {
    /// Number of the rank, from 0.
    pub rank: usize,
    pub host: String,
    /// Index of the rank among those of its host, from 0.
    pub local_rank: usize,
    /// Number of ranks on its host.
    pub local_size: usize,
    /// Servers that the rank owns, with the result of probing them.
    pub endpoints: Vec<EndpointStatus>,
}

/// Columns of the table, the most important first.
const TABLE_COLUMNS: [&str; 9] =
    ["rank", "host", "endpoint", "state", "model", "context", "version", "routes", "local rank"];
const NARROW_COLUMNS: usize = 7;

impl CheckReport {
    /// Builds the report from the findings of all ranks and counts the ready servers.
    #[must_use]
    pub(crate) fn new(mpi: String, ranks: Vec<CheckedRank>) -> Self {
        let all = ranks.iter().flat_map(|rank| &rank.endpoints);
        let ready = all.clone().filter(|it| matches!(it.probe, ProbeResult::Ready(_))).count();
        Self { mpi, ready, endpoints: all.count(), ranks }
    }

    /// Returns the names of all served models, sorted and without duplicates.
    #[must_use]
    pub(crate) fn model_names(&self) -> Vec<&str> {
        let all = self.ranks.iter().flat_map(|rank| &rank.endpoints);
        let info = all.filter_map(|it| match &it.probe {
            ProbeResult::Ready(info) => Some(info),
            ProbeResult::NotReady(_) => None,
        });
        let mut names: Vec<_> =
            info.flat_map(|info| info.models.iter().map(|model| model.id.as_str())).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Returns the table and its summary lines, fitted to the terminal.
    #[must_use]
    pub(crate) fn render_table(&self) -> String {
        let whole = self.draw_columns(&TABLE_COLUMNS).to_string();
        let full_width = whole.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        let Some(room) = stdout_columns().filter(|room| *room < full_width) else {
            return format!("{whole}\n{}", self.summary_lines());
        };
        // The least important columns are dropped before cells are wrapped.
        let mut table = self.draw_columns(&TABLE_COLUMNS[..NARROW_COLUMNS]);
        table.set_width(u16::try_from(room).unwrap_or(u16::MAX));
        format!(
            "{table}\n{}hint: a wider terminal also shows {}; --json shows everything\n",
            self.summary_lines(),
            TABLE_COLUMNS[NARROW_COLUMNS..].join(" and ")
        )
    }

    /// Draws the table with these columns, a prefix of [`TABLE_COLUMNS`].
    fn draw_columns(&self, heads: &[&str]) -> Table {
        let mut table = Table::new();
        table
            .load_style(UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()))
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_header(heads);
        for rank in &self.ranks {
            let identity = [rank.rank.to_string(), rank.host.clone()];
            let local = format!("{} of {}", rank.local_rank + 1, rank.local_size);
            let mut add = |cells: Vec<String>| {
                let mut cells: Vec<String> = identity.iter().cloned().chain(cells).collect();
                cells.resize(TABLE_COLUMNS.len() - 1, String::new());
                cells.push(local.clone());
                cells.truncate(heads.len());
                table.add_row(cells);
            };
            if rank.endpoints.is_empty() {
                add(vec!["none".into(), "idle".into()]);
            }
            rank.endpoints.iter().for_each(|endpoint| add(endpoint_row(endpoint)));
        }
        table
    }

    fn summary_lines(&self) -> String {
        let idle = self.ranks.iter().filter(|rank| rank.endpoints.is_empty()).count();
        let mut text = format!(
            "{} on {}; MPI: {}\n",
            ready_count_text(self.ready, self.endpoints),
            pluralize(self.ranks.len() as u64, "rank"),
            self.mpi
        );
        if idle > 0 {
            let verb = if idle == 1 { "has" } else { "have" };
            let ranks = pluralize(idle as u64, "rank");
            text += &format!("{ranks} {verb} no endpoint and would send no prompts\n");
        }
        if self.ready < self.endpoints {
            text += "hint: are the servers started, on these ports? Loading a model can take minutes: --ready-timeout 30m\n";
        }
        if let models @ [_, _, ..] = self.model_names().as_slice() {
            text += &format!(
                "hint: several models are served ({}): choose one with --model\n",
                models.join(", ")
            );
        }
        text
    }
}

fn ready_count_text(ready: usize, all: usize) -> String {
    format!("{ready} of {all} endpoints ready")
}

fn endpoint_row(endpoint: &EndpointStatus) -> Vec<String> {
    let mut row = vec![endpoint.url.to_string()];
    match &endpoint.probe {
        ProbeResult::Ready(info) => {
            row.push("ready".into());
            row.extend(server_info_cells(info));
        }
        ProbeResult::NotReady(why) => row.push(format!("not ready: {why}")),
    }
    row
}

fn server_info_cells(info: &ServerInfo) -> [String; 4] {
    let each = |text: &dyn Fn(&ServedModel) -> String| {
        info.models.iter().map(text).collect::<Vec<_>>().join("\n")
    };
    [
        each(&|model| model.id.clone()),
        each(&|model| model.max_model_len.map_or("unknown".into(), |it| it.to_string())),
        info.version.clone().unwrap_or_else(|| "unknown".into()),
        route_names(info.routes),
    ]
}

fn route_names(routes: ServerRoutes) -> String {
    let names = [
        (routes.completions, "completions"),
        (routes.chat, "chat"),
        (routes.chat_batch, "chat-batch"),
        (routes.tokenize, "tokenize"),
        (routes.metrics, "metrics"),
    ];
    let there = names.iter().filter(|(there, _)| *there).map(|&(_, name)| name);
    there.collect::<Vec<_>>().join(" ")
}
