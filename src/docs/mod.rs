//! The manual: one Markdown page per topic, printed by `aurora-swarm help TOPIC` and shown here by rustdoc.
//!
//! Owns the list of pages. A new page needs a line in `PAGES` and a module for rustdoc; a test compares the list with
//! the folder. The command line's own help texts are in `cli`.

/// Topics and texts of all pages, in alphabetical order.
pub(crate) const PAGES: &[(&str, &str)] = &[
    ("aggregates", include_str!("aggregates.md")),
    ("architecture", include_str!("architecture.md")),
    ("aurora", include_str!("aurora.md")),
    ("bench", include_str!("bench.md")),
    ("compare", include_str!("compare.md")),
    ("exit-codes", include_str!("exit-codes.md")),
    ("faq", include_str!("faq.md")),
    ("faults", include_str!("faults.md")),
    ("glossary", include_str!("glossary.md")),
    ("images", include_str!("images.md")),
    ("input", include_str!("input.md")),
    ("library", include_str!("library.md")),
    ("mpi", include_str!("mpi.md")),
    ("originals", include_str!("originals.md")),
    ("output", include_str!("output.md")),
    ("quickstart", include_str!("quickstart.md")),
    ("reduce", include_str!("reduce.md")),
    ("report", include_str!("report.md")),
    ("resume", include_str!("resume.md")),
    ("servers", include_str!("servers.md")),
    ("settings", include_str!("settings.md")),
    ("slurm", include_str!("slurm.md")),
    ("templates", include_str!("templates.md")),
    ("troubleshooting", include_str!("troubleshooting.md")),
    ("tuning", include_str!("tuning.md")),
    ("validation", include_str!("validation.md")),
];

/// Defines an empty module with a page as its documentation.
#[cfg(doc)]
macro_rules! page {
    ($name:ident, $file:literal) => {
        #[doc = include_str!($file)]
        pub mod $name {}
    };
}

#[cfg(doc)]
page!(aggregates, "aggregates.md");
#[cfg(doc)]
page!(architecture, "architecture.md");
#[cfg(doc)]
page!(aurora, "aurora.md");
#[cfg(doc)]
page!(bench, "bench.md");
#[cfg(doc)]
page!(compare, "compare.md");
#[cfg(doc)]
page!(exit_codes, "exit-codes.md");
#[cfg(doc)]
page!(faq, "faq.md");
#[cfg(doc)]
page!(faults, "faults.md");
#[cfg(doc)]
page!(glossary, "glossary.md");
#[cfg(doc)]
page!(images, "images.md");
#[cfg(doc)]
page!(input, "input.md");
#[cfg(doc)]
page!(library, "library.md");
#[cfg(doc)]
page!(mpi, "mpi.md");
#[cfg(doc)]
page!(originals, "originals.md");
#[cfg(doc)]
page!(output, "output.md");
#[cfg(doc)]
page!(quickstart, "quickstart.md");
#[cfg(doc)]
page!(reduce, "reduce.md");
#[cfg(doc)]
page!(report, "report.md");
#[cfg(doc)]
page!(resume, "resume.md");
#[cfg(doc)]
page!(servers, "servers.md");
#[cfg(doc)]
page!(settings, "settings.md");
#[cfg(doc)]
page!(slurm, "slurm.md");
#[cfg(doc)]
page!(templates, "templates.md");
#[cfg(doc)]
page!(troubleshooting, "troubleshooting.md");
#[cfg(doc)]
page!(tuning, "tuning.md");
#[cfg(doc)]
page!(validation, "validation.md");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_of_the_folder_is_listed_in_order_and_has_a_title() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/docs");
        let files = std::fs::read_dir(folder).expect("the folder of this file");
        let names =
            files.map(|file| file.expect("an entry").file_name().into_string().expect("UTF-8"));
        let mut topics: Vec<String> =
            names.filter_map(|name| Some(name.strip_suffix(".md")?.to_owned())).collect();
        topics.sort();
        assert_eq!(PAGES.iter().map(|(topic, _)| *topic).collect::<Vec<_>>(), topics);
        for (topic, page) in PAGES {
            assert!(page.starts_with("# "), "{topic}");
        }
    }

    #[test]
    fn code_in_pages_is_not_compiled_as_a_doctest() {
        for (topic, page) in PAGES {
            let fences = page.lines().filter_map(|line| line.trim_start().strip_prefix("```"));
            for opening in fences.step_by(2) {
                assert!(
                    ["text", "sh", "console", "json", "toml", "python"].contains(&opening),
                    "{topic}: {opening}"
                );
            }
        }
    }
}
