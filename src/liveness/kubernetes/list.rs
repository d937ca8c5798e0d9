//! A list of pods: complete, or a failure.

use kube::core::params::ListParams;
use tokio::time::timeout;

use super::api::{Api, Ask, Failure, chunk};
use super::items::Splitter;
use super::pod::Pod;

/// A server that never comes to a last page lies.
const MOST_PAGES: usize = 10_000;
/// A list that drips takes no longer than so many answers.
const PARTS: u32 = 4;

impl Api {
    /// Lists pods, page by page, and shows each to `each`. The version of the list, once the
    /// last page came to its end: before, nothing that `each` saw may be believed.
    pub(crate) async fn list(
        &self,
        params: ListParams,
        each: &mut (impl FnMut(&Pod) -> Result<(), Failure> + Send),
    ) -> Result<String, Failure> {
        let patience = self.patience() * PARTS;
        let list = timeout(patience, self.pages(params, each)).await;
        list.unwrap_or(Err(Failure::TimedOut(patience)))
    }

    async fn pages(
        &self,
        mut params: ListParams,
        each: &mut (impl FnMut(&Pod) -> Result<(), Failure> + Send),
    ) -> Result<String, Failure> {
        let mut version = String::new();
        for page in 0..MOST_PAGES {
            let mut body = self.ask(Ask::List(&params)).await?;
            let mut splitter = Splitter::default();
            let patience = self.patience();
            loop {
                let data = timeout(patience, chunk(&mut body)).await;
                let Some(data) = data.map_err(|_| Failure::TimedOut(patience))?? else { break };
                splitter.feed(data.as_ref(), &mut |item| {
                    let pod: Pod =
                        serde_json::from_slice(item).map_err(super::items::Broken::from)?;
                    each(&pod)
                })?;
            }
            let rest = splitter.finish()?;
            if rest.kind != "PodList" {
                return Err(Failure::NoPodList(rest.kind.chars().take(80).collect()));
            }
            if page == 0 {
                version = rest.metadata.resource_version;
                // A watch from no version begins anywhere.
                if version.is_empty() {
                    return Err(Failure::NoVersion);
                }
            }
            match rest.metadata.token {
                Some(token) if !token.is_empty() => params.continue_token = Some(token),
                _ => return Ok(version),
            }
        }
        Err(Failure::TooMany(MOST_PAGES))
    }
}
