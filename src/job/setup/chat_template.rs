//! The chat template with which conversations are rendered on the client, and the adapter that hands it to the engine.
//!
//! Owns the choice behind `--chat-template`. Templates are read and rendered in [`chat_template`](crate::chat_template).
//! Whether an endpoint accepts rendered conversations is verified by the engine's render check.

use std::{path::Path, sync::Arc};

use tracing::{debug, info};

use crate::job::JobError;
use crate::{
    chat_template::{ChatRenderer, ChatTemplate, ChatTemplateError},
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
    Ok(SharedRenderer(Arc::new(ChatRendererAdapter(template.compile()?))))
}

struct ChatRendererAdapter(ChatRenderer);

impl ConversationRenderer for ChatRendererAdapter {
    fn render(&self, messages: &str, kwargs: Option<&str>) -> Option<String> {
        let rendered = self.0.render(messages, kwargs);
        rendered
            .inspect_err(|error| {
                debug!(
                    event = "render_failed",
                    "conversation left to the server to render: {error}"
                );
            })
            .ok()
    }
}
