//! The web console.

use cairn_api::access::Caller;
use cairn_api::path;
use serde_json::json;

use crate::args;
use crate::client::{Client, Wait};
use crate::console::Server;
use crate::failure::Failure;
use crate::output::Output;

pub(super) async fn run(asked: args::Console, client: &Client, output: &Output) -> Result<(), Failure> {
    // Whoever begins with no daemon has most likely named the wrong one; later it may come and go.
    client.get::<Caller>(path::WHOAMI, Wait::Short).await?;
    let server = Server::listen(asked.listen, client.clone()).await?;
    let url = server.url();
    super::until_interrupted(async {
        output.either(|| json!({ "url": url }), format!("open {url} in a browser; Ctrl-C ends it\n"))?;
        server.serve().await;
        Ok(())
    })
    .await
}
