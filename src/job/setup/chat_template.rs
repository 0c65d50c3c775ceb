//! Who renders conversations: which template, if any, and the bridge from it to the engine.
//!
//! Owns the choice behind `--chat-template`. How a template is read and rendered is `prompts`'; whether an endpoint may be
//! sent what is rendered here, is the engine's to find out.

use std::{path::Path, sync::Arc};

use tracing::info;

use crate::job::JobError;
use crate::{
    domain::ServerInfo,
    engine::{ConversationRenderer, SharedRenderer},
    input::{self, ChatTemplate, ChatTemplateError},
    settings::{AutoOrCount, Settings},
};

/// The template to render with; none where conversations are left to the servers.
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

/// The model's own, where the servers name a folder that can be read here.
fn load_model_template(serving: &[&ServerInfo], model: &str) -> Option<ChatTemplate> {
    let models = serving.iter().flat_map(|facts| &facts.models).filter(|it| it.id == model);
    let folder = models.filter_map(|it| it.root.as_deref()).find(|root| Path::new(root).is_dir());
    let Some(folder) = folder else {
        info!(
            "conversations go one by one: the servers name no model folder that can be read here (--chat-template names \
             a template)"
        );
        return None;
    };
    let loaded = ChatTemplate::load(Path::new(folder));
    let usable = loaded.and_then(|template| template.compile().map(|_| template));
    usable.inspect_err(|error| info!("conversations go one by one: {error}")).ok()
}

/// A compiled template as the engine wants it.
pub(crate) fn compile_renderer(
    template: &ChatTemplate,
) -> Result<SharedRenderer, ChatTemplateError> {
    Ok(SharedRenderer(Arc::new(ChatRendererAdapter(template.compile()?))))
}

struct ChatRendererAdapter(input::ChatRenderer);

impl ConversationRenderer for ChatRendererAdapter {
    fn render(&self, messages: &str, kwargs: Option<&str>) -> Option<String> {
        let rendered = self.0.render(messages, kwargs);
        rendered
            .inspect_err(|why| tracing::debug!("a conversation is left to the server: {why}"))
            .ok()
    }
}
