//! Tests against recorded renderings of transformers, and of errors.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use jiff::{Zoned, civil::date, tz::TimeZone};
use proptest::prelude::*;
use serde_json::{json, value::RawValue};

use super::{jinja2_compat::rewrite_template, text_messages::check_text_only, *};

/// The time at which the recording script's clock is fixed.
fn fixed_clock() -> Zoned {
    date(2024, 7, 5).at(16, 8, 9, 0).to_zoned(TimeZone::UTC).unwrap()
}

fn templates_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/chat-templates")
}

fn template_from(text: &str, special: &[(&str, &str)]) -> ChatTemplate {
    let special = special.iter().map(|(name, token)| ((*name).into(), (*token).into())).collect();
    ChatTemplate { text: text.into(), special_tokens: special, source_file: "x.jinja".into() }
}

fn compile_text(text: &str) -> ChatRenderer {
    template_from(text, &[]).compile_with_clock(fixed_clock).unwrap()
}

/// Compiles every template of a folder.
fn load_renderers(folder: &Path) -> BTreeMap<String, ChatRenderer> {
    let special = fs::read_to_string(folder.join("special.json")).unwrap();
    let special: BTreeMap<String, BTreeMap<String, String>> =
        serde_json::from_str(&special).unwrap();
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let templates =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "jinja"));
    let compiled = templates.map(|path| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let special = special.get(&name).cloned().unwrap_or_default();
        let template = ChatTemplate { text, special_tokens: special, source_file: name.clone() };
        (name, template.compile_with_clock(fixed_clock).unwrap())
    });
    compiled.collect()
}

/// A conversation's rendering by transformers.
#[derive(Deserialize)]
struct RecordedRendering {
    template: String,
    conversation: String,
    extra: Option<Box<RawValue>>,
    text: Option<String>,
    refused: Option<String>,
    error: Option<String>,
}

/// Compares all recorded renderings of a folder. Returns the numbers of texts and errors, the templates, and the
/// differences.
fn compare_recorded(folder: &Path) -> (usize, usize, BTreeSet<String>, Vec<String>) {
    let renderers = load_renderers(folder);
    let conversations = fs::read_to_string(folder.join("conversations.json")).unwrap();
    let conversations: BTreeMap<String, Box<RawValue>> =
        serde_json::from_str(&conversations).unwrap();
    let (mut texts, mut errors, mut seen) = (0, 0, BTreeSet::new());
    let mut differ = Vec::new();
    for line in fs::read_to_string(folder.join("recorded.jsonl")).unwrap().lines() {
        let line: RecordedRendering = serde_json::from_str(line).unwrap();
        let messages = conversations[&line.conversation].get();
        let extra = line.extra.as_deref().map(RawValue::get);
        let rendered = renderers[&line.template].render(messages, extra);
        let same = match (&line.text, &line.refused, &rendered) {
            (Some(text), _, Ok(rendered)) => text == rendered,
            (_, Some(message), Err(ChatRenderError::TemplateRefused(reason))) => message == reason,
            (None, None, Err(ChatRenderError::TemplateFailed(_))) => true,
            _ => false,
        };
        if line.text.is_some() {
            texts += 1
        } else {
            errors += 1
        }
        if !same {
            let recorded = line.text.ok_or((line.refused, line.error));
            let (recorded, here) = (format!("{recorded:?}"), format!("{rendered:?}"));
            differ.push(format!(
                "{} {} {extra:?}\n  transformers {}\n  here         {}",
                line.template,
                line.conversation,
                text_from_difference(&recorded, &here),
                text_from_difference(&here, &recorded)
            ));
        }
        seen.insert(line.template);
    }
    (texts, errors, seen, differ)
}

/// Returns a text from shortly before its first difference from another.
fn text_from_difference(text: &str, other: &str) -> String {
    let same = text.chars().zip(other.chars()).take_while(|(a, b)| a == b).count();
    text.chars().skip(same.saturating_sub(40)).take(160).collect()
}

#[test]
fn every_template_renders_what_transformers_renders() {
    let (texts, errors, templates, differ) = compare_recorded(&templates_dir());
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n"));
    // Templates of ten model families, and python.jinja.
    assert_eq!((texts, errors, templates.len()), (578, 40, 16));
    let family = |name: &String| name.split(['-', '2', '3']).next().unwrap().to_owned();
    assert_eq!(templates.iter().map(family).collect::<BTreeSet<_>>().len(), 11);
}

fn folder_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

const CONFIG: (&str, &str) = (
    "tokenizer_config.json",
    r#"{"chat_template": "key", "bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>", "unk_token": null, "model_max_length": 1e30}"#,
);

#[test]
fn a_models_template_is_found_and_the_newest_kind_of_file_wins() {
    let jinja = ("chat_template.jinja", "file");
    let map =
        ("special_tokens_map.json", r#"{"eos_token": "other", "pad_token": {"content": "<p>"}}"#);
    let list = (
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#,
    );
    let bare = ("tokenizer_config.json", r#"{"bos_token": "<s>"}"#);
    let old = ("chat_template.json", r#"{"chat_template": "old"}"#);
    let both = "bos_token=<s> eos_token=</s>";
    for (files, given, text, special) in [
        (vec![CONFIG, jinja, map], "", "file", "bos_token=<s> eos_token=</s> pad_token=<p>"),
        (vec![CONFIG], "", "key", both),
        (vec![CONFIG, jinja], "tokenizer_config.json", "key", both),
        (vec![bare, jinja], "tokenizer_config.json", "file", "bos_token=<s>"),
        (vec![CONFIG, ("mine.jinja", "mine")], "mine.jinja", "mine", both),
        (vec![("mine.txt", "mine")], "mine.txt", "mine", ""),
        (vec![list, map], "", "d", "eos_token=other pad_token=<p>"),
        (vec![bare, old], "", "old", "bos_token=<s>"),
    ] {
        let folder = folder_with(&files);
        let template = ChatTemplate::load(&folder.path().join(given)).unwrap();
        let tokens = template.special_tokens.iter().map(|(name, token)| format!("{name}={token}"));
        assert_eq!(
            (template.text.as_str(), tokens.collect::<Vec<_>>().join(" ")),
            (text, special.into())
        );
        assert!(template.source_file.starts_with(folder.path().to_str().unwrap()));
        let travelled = serde_json::to_string(&template).unwrap();
        assert_eq!(serde_json::from_str::<ChatTemplate>(&travelled).unwrap(), template);
    }
}

#[test]
fn an_unusable_template_is_an_error_with_its_file_and_a_hint() {
    const CONFIG: &str = "tokenizer_config.json";
    let none = (CONFIG, r#"{"chat_template": null}"#);
    for (files, given, says) in [
        (vec![], "", "has no chat template"),
        (vec![none], "", "has no chat template"),
        (vec![none], CONFIG, "let the servers render"),
        (vec![], "gone.jinja", "gone.jinja: cannot read: No such file"),
        (vec![], "gone.json", "gone.json: cannot read: No such file"),
        (vec![(CONFIG, "[]")], "", "not a JSON object"),
        (vec![(CONFIG, "{")], "", "not JSON: EOF"),
        (vec![(CONFIG, r#"{"chat_template": 3}"#)], "", "neither a string nor a list"),
        (vec![(CONFIG, r#"{"chat_template": [{"name": "rag"}]}"#)], "", "without an entry named"),
    ] {
        let folder = folder_with(&files);
        let error = ChatTemplate::load(&folder.path().join(given)).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains(folder.path().to_str().unwrap()), "{error}");
    }
    for (text, says) in
        [("{% if %}", "x.jinja: the chat template cannot be used"), ("{{ a", "end of")]
    {
        let error = template_from(text, &[]).compile().unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_conversation_is_text_only_if_messages_have_only_role_and_content() {
    let user = r#"[{"content": "a", "role": "user"}]"#;
    for (messages, extra, says) in [
        (r#"[{"role": "user"}]"#, None, "messages[0]: `content` is missing"),
        (r#"[{"content": "a"}]"#, None, "messages[0]: `role` is missing"),
        (r#"[{"role": "user", "content": null}]"#, None, "`content` must be a string, found null"),
        (r#"[{"role": "user", "content": [{"type": "text", "text": "a"}]}]"#, None, "found a list"),
        (
            r#"[{"role": "user", "content": "a"}, {"role": "b", "content": "b", "tool_calls": []}]"#,
            None,
            "messages[1]: it has `tool_calls` besides",
        ),
        (r#"[{"role": "user", "content": "a", "name": "b"}]"#, None, "it has `name` besides"),
        (r#"[{"role": "user", "content": "\ud800"}]"#, None, "`content`: not valid JSON"),
        (r#"["a"]"#, None, "messages[0]: not valid JSON"),
        ("{}", None, "not valid JSON"),
        (user, Some(r#"{"tools": []}"#), "`tools` is reserved"),
        (user, Some("[]"), "chat_template_kwargs: not valid JSON"),
    ] {
        let Err(ChatRenderError::NotTextOnly(reason)) = check_text_only(messages, extra) else {
            panic!("{messages}")
        };
        assert!(reason.contains(says), "{messages}: {reason}");
        let rendered = compile_text("{{ messages[0].content }}").render(messages, extra);
        assert_eq!(rendered, Err(ChatRenderError::NotTextOnly(reason)));
    }
    assert_eq!(check_text_only(user, Some(r#"{"enable_thinking": false}"#)), Ok(()));
    let repeated = compile_text("{{ messages[0] }}")
        .render(r#"[{"role": "a", "content": "b", "role": "c"}]"#, None);
    assert_eq!(repeated.unwrap(), "{'role': 'c', 'content': 'b'}");
}

const USER: &str = r#"[{"role": "user", "content": "a"}]"#;

#[test]
fn render_errors_have_the_templates_message_or_its_line() {
    let of = |text: &str| compile_text(text).render(USER, None).unwrap_err();
    let message = "{% macro no(m) %}{{ raise_exception('No ' ~ m.role ~ '!') }}{% endmacro %}{{ no(messages[0]) }}";
    assert_eq!(of(message), ChatRenderError::TemplateRefused("No user!".into()));
    let failed = of("\n{{ nothing.at.all }}").to_string();
    let says = "fails on the conversation: undefined value (in chat template:2)";
    assert!(failed.contains(says), "{failed}");
    for text in ["{{ strftime_now('%!') }}", "{{ 1 is divisibleby(0) }}", "{{ 'a'[::0] }}"] {
        assert!(matches!(of(text), ChatRenderError::TemplateFailed(_)), "{text}");
    }
}

#[test]
fn an_endless_template_is_stopped() {
    let of = |text: &str| compile_text(text).render(USER, None).unwrap_err().to_string();
    let long = "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}";
    assert!(of(long).contains("not finished within 50000000 steps"), "{}", of(long));
    let itself = "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}";
    // As small a stack as the threads that render have.
    let small = std::thread::Builder::new().stack_size(2 << 20);
    let stopped = std::thread::scope(|scope| {
        small.spawn_scoped(scope, || of(itself)).unwrap().join().unwrap()
    });
    assert!(stopped.contains("recursion limit exceeded"), "{stopped}");
    let nested = "{% set ns = namespace(l=[]) %}{% for a in range(300) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l | tojson }}";
    assert!(of(nested).contains("nested more than 256 deep"), "{}", of(nested));
}

#[test]
fn only_the_content_of_tags_is_rewritten() {
    for (from, to) in [
        ("{{ a[::-1] }}", "{{ a.__slice__(none, none, -1) }}"),
        ("{%- if a[1:b[0]:c] -%}", "{%- if a.__slice__(1, b[0], c) -%}"),
        (
            "{{ a[b[::2][0]:f(1)[::3]:4] }}",
            "{{ a.__slice__(b.__slice__(none, none, 2)[0], f(1).__slice__(none, none, 3), 4) }}",
        ),
        ("{{ a[1:] ~ {'a': {'b': [1]}}['a'] }}[::1]", "{{ a[1:] ~ {'a': {'b': [1]}}['a'] }}[::1]"),
        ("{{ '[::1]' ~ \"\\\"[::1]\" }} [::1]", "{{ '[::1]' ~ \"\\\"[::1]\" }} [::1]"),
        ("{# [::1] {% generation %} #}", "{# [::1] {% generation %} #}"),
        ("{%- generation -%}x{%endgeneration%}", "{%- with -%}x{%endwith%}"),
        (
            "{% raw %}{% generation %}{{ a[::1] }}{% endraw %}{{ a[::1] }}",
            "{% raw %}{% generation %}{{ a[::1] }}{% endraw %}{{ a.__slice__(none, none, 1) }}",
        ),
        ("a\r\nb\rc", "a\nb\nc"),
        ("{{ {{ ]) %} {# {% {{ 'a", "{{ {{ ]) %} {# {% {{ 'a"),
    ] {
        assert_eq!(rewrite_template(from), to, "{from}");
    }
}

#[test]
fn a_renderer_can_be_shared_by_threads_and_knows_the_special_tokens() {
    fn require_send_sync<T: Send + Sync>(of: T) -> T {
        of
    }
    let text = "{{ bos_token }}{{ eos_token }}{{ messages[0].content }}";
    let renderer =
        require_send_sync(template_from(text, &[("bos_token", "<s>")]).compile().unwrap());
    assert_eq!(renderer.render(USER, None).unwrap(), "<s>a");
    let extra = r#"{"bos_token": 1, "eos_token": [true]}"#;
    assert_eq!(renderer.render(USER, Some(extra)).unwrap(), "1[True]a");
    let today = template_from("{{ strftime_now('%Y') }}", &[]).compile().unwrap();
    assert!(today.render(USER, None).unwrap().parse::<i32>().unwrap() > 2024);
}

/// Generates conversations of any roles and texts, and occasionally an invalid one.
fn any_messages() -> impl Strategy<Value = String> {
    let role = prop_oneof!["user|assistant|system|tool|developer", "\\PC{0,8}"];
    let text = prop_oneof!["\\PC{0,40}", "[ \n\t<>/think|_a\\[\\]{}%:0-9-]{0,60}", "(?s).{0,20}"];
    let message = (role, text).prop_map(|(role, text)| json!({"role": role, "content": text}));
    let odd = prop_oneof![
        Just(json!(null)),
        Just(json!({"role": "user"})),
        Just(json!({"role": "user", "content": ["a"]})),
        Just(json!({"role": 1, "content": "a", "tool_calls": [{}]})),
    ];
    let each = prop_oneof![20 => message, 1 => odd];
    proptest::collection::vec(each, 0..6).prop_map(|all| json!(all).to_string())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_conversation_makes_a_template_panic(
        messages in prop_oneof![9 => any_messages(), 1 => "\\PC{0,40}"],
        extra in prop_oneof![
            Just(None),
            Just(Some(r#"{"enable_thinking": false, "thinking": [], "bos_token": null}"#)),
            Just(Some(r#"{"reasoning_effort": 1e300, "extra": [{}], "model_identity": [null]}"#)),
        ],
    ) {
        static RENDERERS: LazyLock<BTreeMap<String, ChatRenderer>> =
            LazyLock::new(|| load_renderers(&templates_dir()));
        let plain = check_text_only(&messages, extra);
        for renderer in RENDERERS.values() {
            let rendered = renderer.render(&messages, extra);
            let refused = matches!(rendered, Err(ChatRenderError::NotTextOnly(_)));
            prop_assert_eq!(plain.is_err(), refused);
        }
    }

    #[test]
    fn no_text_makes_rewriting_or_compiling_panic(
        text in "[ {}%#'\"\\[\\]():\\-+\nagenrtiodw|.0-9]{0,60}|\\PC{0,30}",
    ) {
        if let Ok(renderer) = template_from(&text, &[]).compile() {
            let _ = renderer.render(USER, None);
        }
    }
}
