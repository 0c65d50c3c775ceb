//! Images of rows: sent with their prompts, to a model that sees them.

use serde_json::{Value, json};
use vllm_sim::{Profile, Turn, image_text};

use crate::support::{
    Job,
    work::{Work, by_turns},
};

/// The data set of `tests/data/images`, and its rows: question and data URL.
const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/images/images.parquet");
const ROWS: &str = include_str!("../data/images/images.json");

fn seeing(servers: usize) -> Work {
    Work::with(vec![Profile { multimodal: true, ..Profile::instant() }; servers])
}

/// The question and the image of each row, the image as the simulator's model sees it.
fn rows() -> Vec<(String, String)> {
    let rows: Vec<Value> = serde_json::from_str(ROWS).unwrap();
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    rows.iter().map(|row| (text(row, "question"), image_text(&text(row, "url")).unwrap())).collect()
}

fn says(content: &str) -> String {
    by_turns(&[Turn { role: "user", content }], 8)
}

#[cfg(feature = "parquet")]
#[track_caller]
fn assert_answers(work: &Work, job: Job, contents: &[String]) -> Vec<Value> {
    job.args(["--max-tokens", "8"]).run().with_code(0);
    let answers = work.answers("answers.jsonl");
    let responses: Vec<&str> =
        answers.iter().map(|answer| answer["response"].as_str().unwrap()).collect();
    assert_eq!(responses, contents.iter().map(|content| says(content)).collect::<Vec<_>>());
    answers
}

#[cfg(feature = "parquet")]
#[test]
fn images_of_a_hugging_face_data_set_are_sent_with_their_questions_on_any_number_of_ranks() {
    let rows = rows();
    for column in ["image", "pixels"] {
        for ranks in [1, 3] {
            let work = seeing(2);
            let job = work.run(DATA).args(["--template", "{{question}}", "--image-column", column]);
            let contents: Vec<String> =
                rows.iter().map(|(q, image)| format!("{image}{q}")).collect();
            let answers = assert_answers(&work, job.ranks(ranks), &contents);
            let size = |answer: &Value| answer["images"][0].as_str().unwrap().to_owned();
            assert_eq!(size(&answers[1]), "<image/gif, 35 bytes>", "not base64");
            assert_eq!(answers[0]["prompt"], rows[0].0);
            assert_eq!(answers[0]["served"]["api"], "chat");
        }
    }
}

#[cfg(feature = "parquet")]
#[test]
fn the_place_of_an_image_in_the_template_is_its_place_in_the_message() {
    let rows = rows();
    let work = seeing(1);
    let template = "{{question}} {{image}}!";
    let job = work.run(DATA).args(["--template", template, "--image-column", "image"]);
    let contents: Vec<String> =
        rows.iter().map(|(question, image)| format!("{question} {image}!")).collect();
    assert_answers(&work, job, &contents);
}

#[cfg(feature = "parquet")]
#[test]
fn places_in_a_conversation_are_filled_in_order() {
    let rows = rows();
    let work = seeing(1);
    let contents: Vec<String> = (0..rows.len())
        .map(|at| format!("{}{}{}", rows[at].1, rows[at].0, rows[(at + 1) % rows.len()].1))
        .collect();
    assert_answers(&work, work.run(DATA).args(["--image-column", "pair"]), &contents);
    // One image for two places.
    let job = work.run_to(DATA, "one.jsonl").args(["--image-column", "image"]);
    job.run().with_code(5).complains("2 places for an image, but 1 image");
}

#[test]
fn an_image_that_cannot_be_read_fails_its_row_and_urls_pass_as_they_are() {
    let work = seeing(1);
    work.file("a.gif", b"GIF89a\x01\0\x01\0\0\0\0;");
    work.file("page.gif", b"<html>");
    let row = |image: &str| json!({"prompt": "What?", "photo": image});
    let images = ["a.gif", "none.gif", "page.gif", "http://h/x.png", "file:///x/y.png"];
    let input = work.rows(&images.map(row));
    let job = work.run(&input).args(["--image-column", "photo", "--max-tokens", "8"]);
    job.run().with_code(3);
    let answers = work.answers("answers.jsonl");
    let gif = image_text("data:image/gif;base64,R0lGODlhAQABAAAAADs=").unwrap();
    assert_eq!(answers[0]["response"], says(&format!("{gif}What?")));
    for (at, reason) in [(1, "none.gif: No such file"), (2, "its 6 bytes are no PNG")] {
        assert_eq!(answers[at]["error"]["kind"], "bad_row");
        let message = answers[at]["error"]["message"].as_str().unwrap();
        assert!(message.contains(reason), "{message}");
    }
    for at in [3, 4] {
        let seen = image_text(images[at]).unwrap();
        assert_eq!(answers[at]["response"], says(&format!("{seen}What?")));
        assert_eq!(answers[at]["images"], json!([images[at]]));
    }
}

#[test]
fn a_model_that_takes_no_images_ends_the_run_and_says_so() {
    let work = Work::instant(1);
    let rows: Vec<Value> =
        (0..300).map(|at| json!({"prompt": "x", "i": format!("http://h/{at}.png")})).collect();
    let input = work.rows(&rows);
    let ended = work.run(&input).args(["--image-column", "i"]).run().in_time();
    assert_ne!(ended.code, Some(0));
    let ended = ended.complains("is not a multimodal model");
    assert!(work.requests() < 300, "{}", ended.err);
}
