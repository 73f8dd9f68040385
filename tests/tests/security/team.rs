//! A farm with two projects and people in them.

use farm_proto::v1;
use farm_tests::client::Client;
use farm_tests::farm::Farm;

/// Makes a project.
pub async fn project(farm: &Farm, name: &str) {
    let request = v1::CreateProjectRequest { name: name.to_owned(), admin: String::new() };
    Client::connect(farm).await.projects.create_project(request).await.unwrap();
}

/// Lets a project push to, or pull from, repositories.
pub async fn allow(farm: &Farm, project: &str, access: &str, repositories: &str) {
    let request = v1::AllowRepositoriesRequest {
        project: project.to_owned(),
        access: access.to_owned(),
        repositories: repositories.to_owned(),
        allowed: true,
    };
    Client::connect(farm).await.projects.allow_repositories(request).await.unwrap();
}

/// Makes a person with a role in a project, and gives a token of theirs.
pub async fn person(farm: &Farm, name: &str, project: &str, role: &str) -> String {
    join(farm, name, project, role).await;
    token(farm, name, v1::TokenScope::default()).await
}

/// Gives a person a role in a project.
pub async fn join(farm: &Farm, name: &str, project: &str, role: &str) {
    let mut admin = Client::within(farm, &farm.token(), Some(project)).await;
    let request =
        v1::SetMemberRequest { person: name.to_owned(), role: role.to_owned(), ..Default::default() };
    admin.projects.set_member(request).await.unwrap();
}

/// A token of a person.
pub async fn token(farm: &Farm, name: &str, scope: v1::TokenScope) -> String {
    let request =
        v1::CreatePersonTokenRequest { person: name.to_owned(), scope: Some(scope), label: String::new() };
    let mut admin = Client::connect(farm).await;
    admin.people.create_person_token(request).await.unwrap().into_inner().secret
}

/// A token of a service.
pub async fn service(farm: &Farm, name: &str, project: &str, role: &str) -> String {
    let mut admin = Client::within(farm, &farm.token(), Some(project)).await;
    let request = v1::CreateServiceTokenRequest {
        service: name.to_owned(),
        role: role.to_owned(),
        ..Default::default()
    };
    admin.people.create_service_token(request).await.unwrap().into_inner().secret
}
