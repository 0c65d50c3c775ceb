//! The chat template with which conversations are rendered on the client, and the adapter that hands it to the engine.
//!
//! Owns the choice behind `--chat-template`. Templates are read and rendered in [`chat_template`](crate::chat_template).
//! Whether an endpoint accepts rendered conversations is verified by the engine's render check.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tracing::{debug, info, warn};

use crate::job::JobError;
use crate::{
    chat_template::{ChatRenderError, ChatRenderer, ChatTemplate, ChatTemplateError},
    domain::ServerInfo,
    engine::{ConversationRenderer, SharedRenderer},
    settings::{AutoOrCount, Settings},
};

/// Returns the template to render conversations with, or `None` if the servers render them.
pub(crate) fn load_chat_template(
    settings: &Settings,
    serving: &[&ServerInfo],
    model: &str,
) -> Result<Option<ChatTemplate>, JobError> {
    if settings.no_batch || settings.batch_size == AutoOrCount::Count(1) {
        return Ok(None);
    }
    match settings.chat_template.as_str() {
        "none" => Ok(None),
        "auto" => Ok(load_model_template(serving, model)),
        path => {
            let template = ChatTemplate::load(Path::new(path))?;
            template.compile()?;
            Ok(Some(template))
        }
    }
}

/// Returns the model's own template, if the servers report a model folder that is readable here. The folder of an adapter
/// without a template is left for that of its base model.
fn load_model_template(serving: &[&ServerInfo], model: &str) -> Option<ChatTemplate> {
    let own = serving.iter().filter_map(|server| server.find_model(model));
    let base = serving
        .iter()
        .filter_map(|server| server.find_model(server.find_model(model)?.parent.as_deref()?));
    let folders: Vec<&str> = own
        .chain(base)
        .filter_map(|served| served.root.as_deref())
        .filter(|root| Path::new(root).is_dir())
        .collect();
    let has_template = |root: &&&str| ChatTemplate::load(Path::new(root)).is_ok();
    let folder = folders.iter().find(has_template).or(folders.first());
    let Some(folder) = folder else {
        debug!(
            event = "chat_batching_off",
            "chat batching off: model folder not readable here (--chat-template FILE enables it)"
        );
        return None;
    };
    let loaded = ChatTemplate::load(Path::new(folder));
    let usable = loaded.and_then(|template| template.compile().map(|_| template));
    usable
        .inspect_err(|error| info!(event = "chat_batching_off", "chat batching off: {error}"))
        .ok()
}

/// Compiles a template for the engine.
pub(crate) fn compile_renderer(
    template: &ChatTemplate,
) -> Result<SharedRenderer, ChatTemplateError> {
    Ok(SharedRenderer(Arc::new(ChatRendererAdapter {
        renderer: template.compile()?,
        has_exceeded_limit: AtomicBool::new(false),
    })))
}

struct ChatRendererAdapter {
    renderer: ChatRenderer,
    /// Whether the template once took too many steps or bytes. It would hold up the scheduler with each conversation.
    has_exceeded_limit: AtomicBool,
}

impl ConversationRenderer for ChatRendererAdapter {
    fn render(&self, messages: &str, kwargs: Option<&str>) -> Option<String> {
        if self.has_exceeded_limit.load(Ordering::Relaxed) {
            return None;
        }
        match self.renderer.render(messages, kwargs) {
            Ok(text) => Some(text),
            Err(error @ ChatRenderError::LimitExceeded(_)) => {
                if !self.has_exceeded_limit.swap(true, Ordering::Relaxed) {
                    warn!(
                        event = "chat_batching_off",
                        "chat batching off, all conversations are left to the servers to render: {error}"
                    );
                }
                None
            }
            Err(error) => {
                debug!(
                    event = "render_failed",
                    "conversation left to the server to render: {error}"
                );
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_that_exceeds_a_limit_is_not_rendered_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("chat_template.jinja");
        let loops = "{% for i in range(100000) %}{% for j in range(100000) %}xxxxxxxx{% endfor %}{% endfor %}";
        std::fs::write(&path, format!("{{% if messages|length > 1 %}}{loops}{{% endif %}}ok"))
            .expect("written");
        let template = ChatTemplate::load(&path).expect("a template");
        let renderer = compile_renderer(&template).expect("compiled").0;
        let one = r#"[{"role":"user","content":"a"}]"#;
        let two = r#"[{"role":"user","content":"a"},{"role":"user","content":"b"}]"#;
        assert_eq!(renderer.render(one, None).as_deref(), Some("ok"));
        assert_eq!(renderer.render(two, None), None);
        assert_eq!(renderer.render(one, None), None, "left to the server from now on");
    }
}
