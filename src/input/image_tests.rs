//! Image columns, from files to prompts.

use std::fs;

use super::{tests::TestInput, *};
use crate::domain::Prompt;

const GIF: &str = "R0lGODlhAQABAAAAADs=";

fn image_rules(columns: &[&str], template: Option<&str>) -> InputRules {
    let mut rules = InputRules {
        image_columns: columns.iter().map(|&name| name.to_owned()).collect(),
        template: template.map(str::to_owned),
        ..InputRules::default()
    };
    rules.sort_image_columns();
    rules
}

fn scan_error(name: &str, text: &str, rules: &InputRules) -> String {
    TestInput::new(&[(name, text.as_bytes())]).scan_error(rules)
}

fn shown(prompt: &Prompt) -> (&str, Vec<&str>) {
    (prompt.input.as_str(), prompt.images.iter().map(|image| image.label.as_str()).collect())
}

#[test]
fn image_columns_of_every_format_are_read_in_the_order_of_their_places() {
    let rows = format!(
        concat!(
            r#"{{"prompt":"one","a":{{"bytes":"{0}"}},"b":"http://h/b"}}"#,
            "\n",
            r#"{{"prompt":"<image> is before <image>","a":null,"b":["http://h/1","http://h/2"]}}"#,
            "\n",
            r#"{{"messages":[{{"role":"user","content":"no image"}}]}}"#,
            "\n",
            r#"{{"prompt":"none on purpose","a":[]}}"#,
            "\n",
        ),
        GIF
    );
    let files = TestInput::new(&[("in.jsonl", rows.as_bytes())]);
    let prompts = files.read_prompts(&image_rules(&["a", "b"], None));
    let read: Vec<_> = prompts.iter().map(shown).collect();
    assert_eq!(read[0], ("one", vec!["<image/gif, 14 bytes>", "http://h/b"]));
    assert_eq!(read[1].1, ["http://h/1", "http://h/2"]);
    assert!(read[2].1.is_empty() && read[3].1.is_empty());
    let source = files.scan_with(&image_rules(&["a", "b"], None)).unwrap().source;
    assert!(source.any_messages && source.any_text);

    let table = "id,q,a,b\n1,what,http://h/a,http://h/b\n2,where,,http://h/b\n";
    let files = TestInput::new(&[("in.csv", table.as_bytes())]);
    let rules = InputRules {
        bad_rows: BadRowAction::Fail,
        ..image_rules(&["a", "b"], Some("{{b}} {{q}} {{a}}"))
    };
    let prompts = files.read_prompts(&rules);
    let expected = [
        ("<image> what <image>", vec!["http://h/b", "http://h/a"]),
        ("<image> where ", vec!["http://h/b"]),
    ];
    assert_eq!(prompts.iter().map(shown).collect::<Vec<_>>(), expected);
    let prompts = files.read_prompts(&image_rules(&["b"], Some("Describe it.")));
    assert_eq!(shown(&prompts[0]), ("Describe it.", vec!["http://h/b"]));
}

#[test]
fn rows_without_their_images_are_invalid_and_unknown_columns_are_named() {
    for (text, reason) in [
        (r#"{"prompt":"x","i":null}"#, "line 1: no image in `i`"),
        (
            r#"{"prompt":"<image>","i":["http://a","http://b"]}"#,
            "1 place for an image, but 2 images",
        ),
        (
            r#"{"messages":[{"role":"user","content":[{"type":"image"}]}],"i":[]}"#,
            "1 place for an image, but 0 images",
        ),
        (
            r#"{"custom_id":"1","method":"POST","url":"/v1/completions","body":{"prompt":"x"},"i":"http://a"}"#,
            "`url` is for texts",
        ),
        (
            r#"{"prompt":"x","image":"http://a"}"#,
            "--image-column i: no row has that column (columns: prompt, image)",
        ),
    ] {
        let error = scan_error("in.jsonl", text, &image_rules(&["i"], None));
        assert!(error.contains(reason), "{text}: {error}");
    }
    let error = scan_error("in.csv", "prompt,image\nx,y\n", &image_rules(&["imge"], None));
    let hint = "--image-column imge: the table has no such column (columns: prompt, image)\nhint: did you mean --image-column image?";
    assert!(error.contains(hint), "{error}");
    assert!(scan_error("in.txt", "x\n", &image_rules(&["i"], None)).contains("no image in `i`"));
}

#[test]
fn paths_are_relative_to_the_input_file_and_a_missing_file_fails_its_prompt_alone() {
    let files = TestInput::new(&[(
        "in.jsonl",
        b"{\"prompt\":\"x\",\"i\":\"a.gif\"}\n{\"prompt\":\"y\",\"i\":\"b.gif\"}\n",
    )]);
    fs::write(files.folder.path().join("a.gif"), b"GIF89a\x01\0\x01\0\0\0\0;").unwrap();
    let prompts = files.read_prompts(&image_rules(&["i"], None));
    assert_eq!(prompts[0].images[0].url(), format!("data:image/gif;base64,{GIF}"));
    assert!(prompts[0].image_failure().is_none());
    let failure = prompts[1].image_failure().expect("no such file");
    assert!(failure.message.contains("b.gif: No such file"), "{failure:?}");
}

#[test]
fn a_kept_row_and_the_item_show_short_texts_instead_of_images() {
    let row = format!(r#"{{"id":3,"i":{{"bytes":"{GIF}"}},"more":["http://a","http://b"]}}"#);
    let rules = InputRules { keep_row: true, ..image_rules(&["i", "more"], Some("{{item}}")) };
    let prompt = TestInput::new(&[("in.jsonl", row.as_bytes())]).read_prompts(&rules).remove(0);
    let short = r#"{"id":3,"i":"<image/gif, 14 bytes>","more":["http://a","http://b"]}"#;
    assert_eq!((shown(&prompt).0, prompt.row.as_deref()), (short, Some(short)));
    let rules = InputRules { keep_row: true, ..image_rules(&["i"], None) };
    let table = format!("prompt,i\nx,{GIF}\n");
    let prompt = TestInput::new(&[("in.csv", table.as_bytes())]).read_prompts(&rules).remove(0);
    assert_eq!(prompt.row.as_deref(), Some(r#"{"prompt":"x","i":"<image/gif, 14 bytes>"}"#));
}
