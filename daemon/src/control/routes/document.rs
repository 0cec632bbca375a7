//! What holds throughout the OpenAPI document and is not written at every route: how calls fail, and what names are.

use cairn_api::error::ErrorCode;
use cairn_api::schema::Name;
use utoipa::openapi::path::{Operation, ParameterIn, PathItem};
use utoipa::openapi::schema::{AllOfBuilder, AnyOfBuilder, Components, ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{PartialSchema as _, ToSchema as _};

/// How any call can fail.
const ALWAYS: [u16; 3] = [500, 503, 504];
/// Those that are asked for something in particular.
const ASKED: [u16; 3] = [400, 404, 409];
/// Those that take a body.
const SENT: [u16; 2] = [408, 413];
/// Those that change something.
const CHANGING: [u16; 2] = [403, 507];

/// Completes the document that is made of the routes.
pub(super) fn complete(mut document: OpenApi) -> OpenApi {
    for item in document.paths.paths.values_mut() {
        let PathItem { get, post, patch, put, delete, .. } = item;
        get.iter_mut().for_each(|operation| say(operation, false));
        [post, patch, put, delete].into_iter().flatten().for_each(|operation| say(operation, true));
    }
    let components = document.components.get_or_insert_default();
    components.schemas.insert(Name::name().into_owned(), Name::schema());
    for status in ALWAYS.iter().chain(&ASKED).chain(&SENT).chain(&CHANGING) {
        components.responses.insert(response_name(*status), failure(*status).into());
    }
    require_a_beginning(components);
    document
}

fn say(operation: &mut Operation, changes: bool) {
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(parameter) = parameter
            && parameter.parameter_in == ParameterIn::Path
        {
            parameter.schema = Some(Ref::from_schema_name(Name::name()).into());
        }
    }
    let (sent, asked) = (operation.request_body.is_some(), operation.parameters.is_some());
    let mut statuses = ALWAYS.to_vec();
    if asked || sent {
        statuses.extend(ASKED);
    }
    if sent {
        statuses.extend(SENT);
    }
    if changes {
        statuses.extend(CHANGING);
    }
    for status in statuses {
        let failure = Ref::from_response_name(response_name(status));
        operation.responses.responses.entry(status.to_string()).or_insert(failure.into());
    }
}

fn response_name(status: u16) -> String {
    format!("Error{status}")
}

/// An error's answer, with the codes that it may have.
fn failure(status: u16) -> Response {
    let codes = ErrorCode::ALL.iter().filter(|code| code.http_status() == status);
    let codes: Vec<_> = codes.map(|code| format!("`{code}`")).collect();
    ResponseBuilder::new()
        .description(codes.join(", "))
        .content("application/json", Content::new(Some(Ref::from_schema_name("ErrorBody"))))
        .build()
}

/// A new volume is blank and has a size, or begins as something: no field has to be there, and one of these has.
fn require_a_beginning(components: &mut Components) {
    let Some(RefOr::T(schema)) = components.schemas.get_mut("CreateVolume") else { return };
    let given = |field: &str, kind| {
        let value = ObjectBuilder::new().schema_type(SchemaType::new(kind));
        ObjectBuilder::new().schema_type(Type::Object).property(field, value).required(field)
    };
    let beginning = AnyOfBuilder::new()
        .item(given("size", Type::Integer))
        .item(given("source", Type::Object))
        .item(given("image", Type::String));
    let fields = std::mem::take(schema);
    *schema = AllOfBuilder::new().item(fields).item(beginning).into();
}
