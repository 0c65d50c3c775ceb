//! Asking all of a rank's servers at once whether they are ready.

use std::time::Duration;

use tokio::{runtime::Builder, task::JoinSet};

use crate::{
    domain::{Probe, Surveyed, Url},
    endpoint::{Client, wait_until_ready},
    settings::Secret,
};

/// Local. Waits up to `patience` for each of the servers, all at once; in their order. Blocks the calling thread.
#[must_use]
pub fn survey(urls: &[Url], key: Option<Secret>, patience: Duration) -> Vec<Surveyed> {
    let unusable = |why: String| {
        let probe = |url: &Url| Surveyed { url: url.clone(), probe: Probe::NotReady(why.clone()) };
        urls.iter().map(probe).collect()
    };
    if urls.is_empty() {
        return Vec::new();
    }
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return unusable(format!("no asynchronous runtime: {error}")),
    };
    let client = match Client::new(key) {
        Ok(client) => client,
        Err(trouble) => return unusable(trouble.to_string()),
    };
    runtime.block_on(ask_all(urls, &client, patience))
}

#[expect(clippy::disallowed_methods, reason = "engine owns tasks, and waits for these")]
async fn ask_all(urls: &[Url], client: &Client, patience: Duration) -> Vec<Surveyed> {
    let mut asked = JoinSet::new();
    for (place, url) in urls.iter().cloned().enumerate() {
        let client = client.clone();
        asked.spawn(async move {
            let probe = wait_until_ready(&client, &url, patience).await;
            (place, Surveyed { url, probe })
        });
    }
    let mut surveyed = asked.join_all().await;
    surveyed.sort_by_key(|(place, _)| *place);
    surveyed.into_iter().map(|(_, it)| it).collect()
}
