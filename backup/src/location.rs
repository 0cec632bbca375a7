//! Where a repository is: `file:///folder` or `s3://bucket/prefix`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::RetryConfig;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use url::Url;

use crate::error::{Error, ErrorKind, Result};
use crate::http::Connector;
use crate::objects::{Backend, Objects};

/// A repository's place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Location(Place);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Place {
    Folder(PathBuf),
    Bucket { bucket: String, prefix: String },
}

/// How to reach an S3 store. What is not given comes from the usual variables (`AWS_ACCESS_KEY_ID`,
/// `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`), then from the machine's role.
#[derive(Clone, Default)]
pub struct S3Options {
    /// The store's address, such as `https://s3.example.org`. Plain HTTP is used only if it says `http://`.
    pub endpoint: Option<String>,
    /// The region; most stores that are not Amazon's take any.
    pub region: Option<String>,
    /// The access key's id and its secret.
    pub credentials: Option<(String, String)>,
    /// A request in which nothing moves for so long is made again; half a minute if not given.
    pub silence: Option<Duration>,
}

/// Longer than a store takes for anything, short enough to wait for a few times.
const SILENCE: Duration = Duration::from_secs(30);

impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Options")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("credentials", &self.credentials.as_ref().map(|(id, _)| id))
            .field("silence", &self.silence)
            .finish()
    }
}

impl Location {
    /// Reads a URL.
    pub fn parse(text: &str) -> Result<Location> {
        let bad = |why: &str| {
            let context = format!(
                "{text:?} is no place for a repository: {why}; give file:///folder or s3://bucket/prefix"
            );
            Error::new(ErrorKind::InvalidArgument, context)
        };
        let url = Url::parse(text).map_err(|e| bad(&e.to_string()))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("keys do not belong in a URL"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad("it has a query or a fragment"));
        }
        match url.scheme() {
            "file" => match url.to_file_path() {
                Ok(folder) => Ok(Location(Place::Folder(folder))),
                Err(()) => Err(bad("the path is not absolute on this host")),
            },
            "s3" => {
                let bucket =
                    url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| bad("no bucket"))?;
                if url.port().is_some() {
                    return Err(bad("a bucket has no port; the endpoint is given apart"));
                }
                let prefix = url.path().trim_matches('/');
                object_store::path::Path::parse(prefix).map_err(|e| bad(&e.to_string()))?;
                Ok(Location(Place::Bucket { bucket: bucket.to_owned(), prefix: prefix.to_owned() }))
            }
            other => Err(bad(&format!("{other:?} is not a kind of store"))),
        }
    }

    /// The store at this place. With `make`, a folder that is not there is made.
    pub(crate) fn objects(&self, s3: &S3Options, make: bool) -> Result<Arc<dyn Objects>> {
        match &self.0 {
            Place::Folder(folder) => {
                let failed = |kind, e: Box<dyn std::error::Error + Send + Sync>| {
                    Error::new(kind, format!("the folder {} cannot be used", folder.display())).because(e)
                };
                if make {
                    std::fs::create_dir_all(folder).map_err(|e| failed(ErrorKind::Denied, e.into()))?;
                } else if !folder.is_dir() {
                    let context = format!("there is no folder {}", folder.display());
                    return Err(Error::new(ErrorKind::NotARepository, context));
                }
                // A backup is complete when its objects are on the disk, not in the page cache.
                let store = LocalFileSystem::new_with_prefix(folder)
                    .map_err(|e| failed(ErrorKind::Store, e.into()))?
                    .with_fsync(true);
                Ok(Arc::new(Backend::new(Arc::new(store), "", Some(folder.clone()))))
            }
            Place::Bucket { bucket, prefix } => {
                // Whoever came first decides; all that matters is that there is a provider.
                let _ = rustls::crypto::ring::default_provider().install_default();
                let builder = s3_builder(bucket, s3);
                if let Some(endpoint) = endpoint_of(&builder)
                    && has_no_keys(&builder)
                {
                    let context = format!(
                        "no keys for {self} at {endpoint}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                    );
                    return Err(Error::new(ErrorKind::Denied, context));
                }
                let store = builder.build().map_err(|e| {
                    Error::new(ErrorKind::InvalidArgument, format!("{self} cannot be used")).because(e)
                })?;
                Ok(Arc::new(Backend::new(Arc::new(store), prefix, None)))
            }
        }
    }
}

/// A store in memory, for tests and measurements.
pub fn memory() -> Arc<dyn Objects> {
    Arc::new(Backend::new(Arc::new(InMemory::new()), "", None))
}

fn s3_builder(bucket: &str, options: &S3Options) -> AmazonS3Builder {
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
    if let Some(endpoint) = &options.endpoint {
        // The key that goes before all others, whatever the variables say.
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
    }
    if let Some(region) = &options.region {
        builder = builder.with_region(region);
    }
    if let Some((id, secret)) = &options.credentials {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret);
    }
    let plain = endpoint_of(&builder).is_some_and(|endpoint| endpoint.starts_with("http://"));
    let connector = Connector::new(options.silence.unwrap_or(SILENCE), plain);
    // Retries are the repository's: it knows that its writes may be repeated.
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    builder.with_client_options(connector.options()).with_http_connector(connector).with_retry(retry)
}

fn endpoint_of(builder: &AmazonS3Builder) -> Option<String> {
    [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint]
        .iter()
        .find_map(|key| builder.get_config_value(key))
}

/// Whether nothing says where keys are, so that only Amazon could give some, to a machine of its own.
fn has_no_keys(builder: &AmazonS3Builder) -> bool {
    let unsigned = builder.get_config_value(&AmazonS3ConfigKey::SkipSignature);
    let sources = [
        AmazonS3ConfigKey::AccessKeyId,
        AmazonS3ConfigKey::WebIdentityTokenFile,
        AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
        AmazonS3ConfigKey::ContainerCredentialsFullUri,
        AmazonS3ConfigKey::MetadataEndpoint,
    ];
    unsigned.is_none_or(|unsigned| unsigned != "true")
        && sources.iter().all(|key| builder.get_config_value(key).is_none_or(|value| value.is_empty()))
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Folder(folder) => write!(f, "file://{}", folder.display()),
            Place::Bucket { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Place::Bucket { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_refused() {
        for (url, shown) in [
            ("file:///var/backups", "file:///var/backups"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://bucket/some/prefix/", "s3://bucket/some/prefix"),
        ] {
            assert_eq!(Location::parse(url).unwrap().to_string(), shown);
        }
        for url in [
            "",
            "/var/backups",
            "file://host/share",
            "s3://",
            "s3:///prefix",
            "ftp://host/x",
            "http://host/x",
            "s3://id:secret@bucket",
            "s3://bucket/a?b=c",
            "s3://bucket:80/x",
            "s3://bucket/a//b",
        ] {
            let error = Location::parse(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{url}");
        }
    }

    #[test]
    fn plain_http_only_where_the_endpoint_says_so() {
        let allowed = |endpoint: &str| {
            let options = S3Options { endpoint: Some(endpoint.to_owned()), ..S3Options::default() };
            let key = AmazonS3ConfigKey::Client(object_store::ClientConfigKey::AllowHttp);
            s3_builder("b", &options).get_config_value(&key)
        };
        assert_eq!(allowed("http://127.0.0.1:9000").as_deref(), Some("true"));
        assert_eq!(allowed("https://s3.example.org").as_deref(), Some("false"));
    }

    #[test]
    fn secrets_are_not_shown() {
        let options = S3Options { credentials: Some(("id".into(), "hidden".into())), ..S3Options::default() };
        assert!(!format!("{options:?}").contains("hidden"));
    }
}
