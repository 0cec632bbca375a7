//! `cairn console ...`

use std::net::{Ipv4Addr, SocketAddr};

use clap::Args;

/// Where browsers find it.
#[derive(Args, Debug)]
pub(crate) struct Console {
    /// A loopback address and a port; with port 0 the system chooses one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7676", value_parser = loopback)]
    pub(crate) listen: SocketAddr,
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let named = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
    let address = match named {
        Some(port) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        None => {
            text.parse().map_err(|_| "expected an address and a port, such as 127.0.0.1:7676".to_owned())?
        }
    };
    if address.ip().is_loopback() {
        return Ok(address);
    }
    let port = address.port();
    Err(format!(
        "whoever reaches the console has its user's rights, so it listens on loopback addresses only\n\
         hint: listen on 127.0.0.1:{port}, and from another machine: ssh -L {port}:localhost:{port} HOST"
    ))
}
