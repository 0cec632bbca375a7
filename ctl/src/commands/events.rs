//! What happened, and what happens.

use cairn_api::event::{Event, EventList};
use cairn_api::path;

use crate::args;
use crate::client::{Client, Wait};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::events;

pub(super) async fn run(asked: args::Events, client: &Client, output: &Output) -> Result<(), Failure> {
    let follow = asked.follow;
    let pairs = |after: Option<u64>, limit: Option<u64>| {
        let asked = [
            ("kind", asked.kind.clone()),
            ("volume", asked.volume.clone()),
            ("severity", asked.severity.map(|severity| severity.as_str().to_owned())),
            ("after", after.map(|after| after.to_string())),
            ("limit", limit.map(|limit| limit.to_string())),
        ];
        path::with_query(path::EVENTS.to_owned(), &super::borrowed(&asked))
    };
    if !follow {
        let list = client.get::<EventList>(&pairs(asked.after, asked.limit), Wait::Short).await?;
        return output.answer(&list, events::list);
    }
    let mut after = asked.after;
    if let Some(limit) = asked.limit {
        // The latest first, then what comes next.
        let list = client.get::<EventList>(&pairs(after, Some(limit)), Wait::Short).await?.value;
        list.events.iter().try_for_each(|event| show(event, output))?;
        after = Some(list.last);
    }
    client
        .listen(&pairs(after, None), |kind, data| {
            if kind == "gap" {
                return output.note("some events in between are forgotten");
            }
            match serde_json::from_str::<Event>(data) {
                Ok(event) => show(&event, output),
                // One of a newer daemon.
                Err(_) => Ok(()),
            }
        })
        .await
}

fn show(event: &Event, output: &Output) -> Result<(), Failure> {
    output.either(|| serde_json::to_value(event).unwrap_or_default(), events::line(event, &output.look))
}
