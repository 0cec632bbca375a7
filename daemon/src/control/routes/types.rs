//! Volume types, and the QoS rules that they point to.

use axum::http::StatusCode;
use cairn_api::error::ErrorBody;
use cairn_api::types::{
    CreateQosPolicy, CreateType, EditQosPolicy, EditType, QosPolicy, QosPolicyList, TypeList, VolumeType,
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Control, Failure, Length, Shared};
use crate::control::reply::{Input, Path};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list_types, create_type))
        .routes(routes!(show_type, edit_type, delete_type))
        .routes(routes!(list_qos, create_qos))
        .routes(routes!(show_qos, edit_qos, delete_qos))
}

/// List all volume types.
#[utoipa::path(get, path = "/v1/types", tag = "types", responses(
    (status = 200, description = "The types, by name", body = TypeList),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn list_types(c: Control) -> Answer<TypeList> {
    c.ok(Length::Short, |e| e.types()).await
}

/// Create a volume type.
#[utoipa::path(post, path = "/v1/types", tag = "types", request_body = CreateType, responses(
    (status = 201, description = "The new type", body = VolumeType),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn create_type(c: Control, Input(request): Input<CreateType>) -> Answer<VolumeType> {
    c.created(|e| e.create_type(request)).await
}

/// Show a volume type.
#[utoipa::path(get, path = "/v1/types/{name}", tag = "types",
    params(("name" = String, Path, description = "The type")), responses(
    (status = 200, description = "The type", body = VolumeType),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn show_type(c: Control, Path(name): Path<String>) -> Answer<VolumeType> {
    c.ok(Length::Short, |e| e.volume_type(name)).await
}

/// Change a volume type, at once for every volume that has it.
#[utoipa::path(patch, path = "/v1/types/{name}", tag = "types", request_body = EditType,
    params(("name" = String, Path, description = "The type")), responses(
    (status = 200, description = "The type as it is now", body = VolumeType),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn edit_type(
    c: Control,
    Path(name): Path<String>,
    Input(request): Input<EditType>,
) -> Answer<VolumeType> {
    c.ok(Length::Short, |e| e.edit_type(name, request)).await
}

/// Delete a type that no volume has.
#[utoipa::path(delete, path = "/v1/types/{name}", tag = "types",
    params(("name" = String, Path, description = "The type")), responses(
    (status = 204, description = "It is deleted"),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn delete_type(c: Control, Path(name): Path<String>) -> Result<StatusCode, Failure> {
    c.gone(|e| e.delete_type(name)).await
}

/// List all QoS rules.
#[utoipa::path(get, path = "/v1/qos", tag = "qos", responses(
    (status = 200, description = "The rules, by name", body = QosPolicyList),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn list_qos(c: Control) -> Answer<QosPolicyList> {
    c.ok(Length::Short, |e| e.qos_policies()).await
}

/// Create a QoS rule for types to point to.
#[utoipa::path(post, path = "/v1/qos", tag = "qos", request_body = CreateQosPolicy, responses(
    (status = 201, description = "The new rule", body = QosPolicy),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn create_qos(c: Control, Input(request): Input<CreateQosPolicy>) -> Answer<QosPolicy> {
    c.created(|e| e.create_qos_policy(request)).await
}

/// Show a QoS rule.
#[utoipa::path(get, path = "/v1/qos/{name}", tag = "qos",
    params(("name" = String, Path, description = "The rule")), responses(
    (status = 200, description = "The rule", body = QosPolicy),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn show_qos(c: Control, Path(name): Path<String>) -> Answer<QosPolicy> {
    c.ok(Length::Short, |e| e.qos_policy(name)).await
}

/// Change a QoS rule, at once for every volume that it holds for.
#[utoipa::path(patch, path = "/v1/qos/{name}", tag = "qos", request_body = EditQosPolicy,
    params(("name" = String, Path, description = "The rule")), responses(
    (status = 200, description = "The rule as it is now", body = QosPolicy),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn edit_qos(
    c: Control,
    Path(name): Path<String>,
    Input(request): Input<EditQosPolicy>,
) -> Answer<QosPolicy> {
    c.ok(Length::Short, |e| e.edit_qos_policy(name, request)).await
}

/// Delete a QoS rule that no type points to.
#[utoipa::path(delete, path = "/v1/qos/{name}", tag = "qos",
    params(("name" = String, Path, description = "The rule")), responses(
    (status = 204, description = "It is deleted"),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn delete_qos(c: Control, Path(name): Path<String>) -> Result<StatusCode, Failure> {
    c.gone(|e| e.delete_qos_policy(name)).await
}
