//! The result of `check`: hosts and ranks, the servers of each rank, and whether they are ready.
//!
//! Owns the table and its summary lines. The probing itself is in [`endpoint`](crate::endpoint).

use comfy_table::{ContentArrangement, LineStyle, Table, presets::UTF8_HORIZONTAL_ONLY};
use serde::{Deserialize, Serialize};

use super::{readiness::readiness_hints, terminal::stdout_columns};
use crate::{
    domain::{EndpointStatus, ProbeResult, ReadinessCounts, ServedModel, ServerInfo, ServerRoutes},
    report::format::{pluralize, shorten_list},
    settings::ApiMode,
};

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
    /// The model that a job with the same options would use, if the options name one, and how they choose its route.
    #[serde(skip)]
    choice: (Option<String>, ApiMode),
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
/// Models of a server that the table lists.
const MAX_LISTED_MODELS: usize = 20;

impl CheckReport {
    /// Builds the report from the findings of all ranks and counts the ready servers.
    #[must_use]
    pub(crate) fn new(mpi: String, ranks: Vec<CheckedRank>) -> Self {
        let all = ranks.iter().flat_map(|rank| &rank.endpoints);
        let ready = all.clone().filter(|it| it.probe.is_ready()).count();
        let choice = (None, ApiMode::Auto);
        Self { mpi, ready, endpoints: all.count(), ranks, choice }
    }

    /// Sets the model and the choice of a route that the options make.
    #[must_use]
    pub(crate) fn for_model(self, model: Option<String>, api: ApiMode) -> Self {
        Self { choice: (model, api), ..self }
    }

    fn ready_servers(&self) -> impl Iterator<Item = &ServerInfo> {
        let all = self.ranks.iter().flat_map(|rank| &rank.endpoints);
        all.filter_map(|it| it.probe.ready_info())
    }

    /// Returns the names of all served models, sorted and without duplicates.
    #[must_use]
    pub(crate) fn model_names(&self) -> Vec<&str> {
        let models = self.ready_servers().flat_map(|info| &info.models);
        let mut names: Vec<_> = models.map(|model| model.id.as_str()).collect();
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
        let all = self.ranks.iter().flat_map(|rank| &rank.endpoints);
        let counts = ReadinessCounts::of_statuses(all, None);
        for hint in readiness_hints(&counts) {
            text += &format!("hint: {hint}\n");
        }
        text + &self.model_line()
    }

    /// Returns the line about the model that a job with the same options would use.
    fn model_line(&self) -> String {
        let names = self.model_names();
        let (model, api) = &self.choice;
        let model = match (model.as_deref(), names.as_slice()) {
            (_, []) => return String::new(),
            (Some(model), _) if names.contains(&model) => model,
            (Some(model), _) => {
                return format!(
                    "hint: model {model} is not served; served models: {}\n",
                    shorten_list(&names)
                );
            }
            (None, [only]) => *only,
            (None, several) => {
                return format!(
                    "hint: several models are served ({}): choose one with --model\n",
                    shorten_list(several)
                );
            }
        };
        let mut serving = self.ready_servers().filter(|info| info.find_model(model).is_some());
        let route = match api {
            ApiMode::Completions => "/v1/completions (--api completions)",
            ApiMode::Chat => "/v1/chat/completions (--api chat)",
            ApiMode::Auto if serving.any(|info| info.chat_template == Some(false)) => {
                "/v1/completions, since it has no chat template"
            }
            ApiMode::Auto => "/v1/chat/completions",
        };
        format!("{model} gets texts by {route}\n")
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
        ProbeResult::NotReady(why) => row.push(format!("not ready: {}", first_line(why))),
        ProbeResult::Unusable(why) => row.push(format!("unusable: {}", first_line(why))),
    }
    row
}

/// Returns a reason without its hints, which follow the table.
fn first_line(reason: &str) -> &str {
    reason.lines().next().unwrap_or_default()
}

fn server_info_cells(info: &ServerInfo) -> [String; 4] {
    let each = |text: &dyn Fn(&ServedModel) -> String| {
        let mut lines: Vec<String> = info.models.iter().take(MAX_LISTED_MODELS).map(text).collect();
        match info.models.len().saturating_sub(MAX_LISTED_MODELS) {
            0 => {}
            more => lines.push(format!("and {more} more")),
        }
        lines.join("\n")
    };
    let context = |model: &ServedModel| info.max_model_len(&model.id);
    [
        each(&|model| model.id.clone()),
        each(&|model| context(model).map_or("unknown".into(), |it| it.to_string())),
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
