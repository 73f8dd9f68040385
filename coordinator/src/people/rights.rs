//! The table of rights: each method, what is done by it, and what that needs.
//!
//! The page `docs/reference/rights.md` is made from it. A method without a row is answered by nobody, and a test walks all
//! methods that there are.

use farm_types::Role;

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Ask whether the coordinator answers.
    AskHealth,
    /// Ask which methods there are.
    ReadMethods,
    /// Ask who one is.
    KnowOneself,
    /// See the farm and its workers.
    ReadFarm,
    /// See the projects that one is in.
    ListProjects,
    /// Make, list and revoke one's own tokens.
    ManageTokens,
    /// See builds, their logs and outputs.
    ReadBuilds,
    /// See what a registry holds, with the farm's credentials.
    ReadImages,
    /// Remove tags and images from registries.
    RemoveImages,
    /// Submit builds, bring their sources, retry them.
    Submit,
    /// End builds.
    Cancel,
    /// See who is in a project, and what it is allowed.
    ReadMembers,
    /// Give roles in a project and tokens to its services, protect its tags, and say what its builds are by default.
    ManageMembers,
    /// Say whose tokens of other systems the project trusts.
    ManageTrusts,
    /// See which secrets the project keeps, and who may use them.
    ReadSecrets,
    /// Set and remove the project's secrets, and say who may use them.
    ManageSecrets,
    /// Give the project logins of its own at registries and for git.
    ManageLogins,
    /// See by which keys the project signs, and who may have things signed by them.
    ReadSigningKeys,
    /// Set and remove keys by which the project signs, and say who may have things signed by them.
    ManageSigningKeys,
    /// See the project's webhooks and what was delivered, without secrets, addresses and bodies.
    ReadHooks,
    /// Let what a fork proposes be built.
    Approve,
    /// Make, try, rotate and remove the project's webhooks, and have deliveries processed again.
    ManageHooks,
    /// See whom the project tells how builds end, without where that is exactly.
    ReadNotices,
    /// Make, try, rotate and remove the project's notices.
    ManageNotices,
    /// Show a token of another system.
    Exchange,
    /// Show what a company's issuer gave.
    SignIn,
    /// See what was done in a project.
    ReadAudit,
    /// See what was done in the whole farm, and whether that still stands as it was written.
    ReadFarmAudit,
    /// Make and remove projects, and say what they may take of the farm and where they may push to.
    ManageProjects,
    /// Give persons tokens, say who they are at the issuer, and make them admins of the farm.
    ManagePersons,
    /// Drain, resume and remove workers, and have their caches pruned.
    ManageWorkers,
    /// Bring workers into the farm, and throw them out.
    InviteWorkers,
    /// Show a join token.
    Join,
    /// Have another certificate.
    Renew,
    /// Take jobs.
    Work,
    /// Make this coordinator look at the database, or ask an agent that is offered here.
    Hint,
}

/// What an action needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: whoever reaches the listener.
    Nothing,
    /// Anybody whom the farm knows, in whatever project.
    Identity,
    /// This role, or more, in the project of the call.
    Role(Role),
    /// An admin of the farm.
    FarmAdmin,
    /// A worker.
    Worker,
    /// A worker that shows a certificate, also one that ended within the last 24 h.
    Certificate,
    /// Another coordinator.
    Coordinator,
}

impl Action {
    /// What it needs.
    pub fn needs(self) -> Needs {
        match self {
            // Who it is, its token shows, or what an issuer gave, which is in the body.
            Self::AskHealth | Self::Exchange | Self::SignIn | Self::Join => Needs::Nothing,
            Self::ReadMethods
            | Self::KnowOneself
            | Self::ReadFarm
            | Self::ListProjects
            | Self::ManageTokens => Needs::Identity,
            Self::ReadBuilds
            | Self::ReadImages
            | Self::ReadMembers
            | Self::ReadSigningKeys
            | Self::ReadHooks
            | Self::ReadNotices => Needs::Role(Role::Viewer),
            Self::Submit | Self::Cancel | Self::ReadSecrets => Needs::Role(Role::Builder),
            Self::Approve => Needs::Role(Role::Publisher),
            // Of a tag that is moved the image stays, and it can be moved back: of one that is removed nothing does.
            Self::RemoveImages
            | Self::ManageMembers
            | Self::ManageTrusts
            | Self::ManageSecrets
            | Self::ManageLogins
            | Self::ManageSigningKeys
            | Self::ManageHooks
            | Self::ManageNotices
            | Self::ReadAudit => Needs::Role(Role::Admin),
            Self::ManageProjects
            | Self::ReadFarmAudit
            | Self::ManagePersons
            | Self::ManageWorkers
            | Self::InviteWorkers => Needs::FarmAdmin,
            Self::Renew => Needs::Certificate,
            Self::Work => Needs::Worker,
            Self::Hint => Needs::Coordinator,
        }
    }

    /// What somebody does with it, after "to".
    pub fn words(self) -> &'static str {
        match self {
            Self::AskHealth => "ask for health",
            Self::ReadMethods => "list the farm's methods",
            Self::KnowOneself => "ask who one is",
            Self::ReadFarm => "see the farm and its workers",
            Self::ListProjects => "list projects",
            Self::ManageTokens => "manage one's own tokens",
            Self::ReadBuilds => "see builds",
            Self::ReadImages => "look at images",
            Self::RemoveImages => "remove images from registries",
            Self::Submit => "submit builds",
            Self::Cancel => "cancel builds",
            Self::ReadMembers => "see who is in the project and what it is allowed",
            Self::ManageMembers => "manage members, services, protected tags and what builds are by default",
            Self::ManageTrusts => "manage what the project trusts",
            Self::ReadSecrets => "see which secrets the project keeps",
            Self::ManageSecrets => "manage the project's secrets",
            Self::ManageLogins => "manage the project's logins at registries and for git",
            Self::ReadSigningKeys => "see by which keys the project signs",
            Self::ManageSigningKeys => "manage the keys by which the project signs",
            Self::ReadHooks => "see the project's webhooks and what became of deliveries",
            Self::Approve => "approve pull requests of forks",
            Self::ManageHooks => "manage the project's webhooks",
            Self::ReadNotices => "see whom the project tells how builds end",
            Self::ManageNotices => "manage whom the project tells how builds end",
            Self::Exchange => "exchange a token of another system",
            Self::SignIn => "sign in at the farm's issuer",
            Self::ReadAudit => "see what was done in the project",
            Self::ReadFarmAudit => "see what was done in the farm",
            Self::ManageProjects => {
                "manage projects, what they may take of the farm and where they may push to"
            }
            Self::ManagePersons => "manage persons",
            Self::ManageWorkers => "drain, resume or remove workers, or prune their caches",
            Self::InviteWorkers => "invite or revoke workers",
            Self::Join => "join with a token",
            Self::Renew => "renew a worker's certificate",
            Self::Work => "take jobs",
            Self::Hint => "call as a coordinator",
        }
    }
}

/// Every method that is served, by its path.
pub const METHODS: &[(&str, Action)] = &[
    ("/grpc.health.v1.Health/Check", Action::AskHealth),
    ("/grpc.health.v1.Health/Watch", Action::AskHealth),
    ("/grpc.health.v1.Health/List", Action::AskHealth),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Action::ReadMethods),
    ("/farm.v1.BuildService/SubmitBuild", Action::Submit),
    ("/farm.v1.BuildService/GetBuild", Action::ReadBuilds),
    ("/farm.v1.BuildService/ListBuilds", Action::ReadBuilds),
    ("/farm.v1.BuildService/WatchBuild", Action::ReadBuilds),
    ("/farm.v1.BuildService/CancelBuild", Action::Cancel),
    ("/farm.v1.BuildService/RetryBuild", Action::Submit),
    ("/farm.v1.BuildService/OfferAgents", Action::Submit),
    ("/farm.v1.BuildService/ProvideSource", Action::Submit),
    // Whoever may submit may build from any source of the project, and so read it.
    ("/farm.v1.BuildService/ReadFetched", Action::Submit),
    ("/farm.v1.SnapshotService/OpenUpload", Action::Submit),
    ("/farm.v1.SnapshotService/FindMissing", Action::Submit),
    ("/farm.v1.SnapshotService/UploadObjects", Action::Submit),
    ("/farm.v1.SnapshotService/FinishUpload", Action::Submit),
    ("/farm.v1.OutputService/FetchOutput", Action::ReadBuilds),
    // Whoever may submit a build may say that its outputs were taken.
    ("/farm.v1.OutputService/ReleaseOutputs", Action::Submit),
    ("/farm.v1.ImageService/GetTagHistory", Action::ReadImages),
    ("/farm.v1.ImageService/InspectImage", Action::ReadImages),
    ("/farm.v1.ImageService/ListTags", Action::ReadImages),
    ("/farm.v1.ImageService/RemoveImages", Action::RemoveImages),
    ("/farm.v1.ImageService/GetRepositoryUsage", Action::ReadImages),
    // Each run is a build of whoever has asked for it; and whoever may cancel that may end all that follow.
    ("/farm.v1.MirrorService/AddMirror", Action::Submit),
    ("/farm.v1.MirrorService/ListMirrors", Action::ReadBuilds),
    ("/farm.v1.MirrorService/RemoveMirror", Action::Cancel),
    ("/farm.v1.FarmService/GetFarm", Action::ReadFarm),
    ("/farm.v1.FarmService/ListWorkers", Action::ReadFarm),
    ("/farm.v1.FarmService/DrainWorkers", Action::ManageWorkers),
    ("/farm.v1.FarmService/ResumeWorkers", Action::ManageWorkers),
    ("/farm.v1.FarmService/RemoveWorkers", Action::ManageWorkers),
    ("/farm.v1.FarmService/MeasureCaches", Action::ReadFarm),
    ("/farm.v1.FarmService/PruneCaches", Action::ManageWorkers),
    ("/farm.v1.PeopleService/WhoAmI", Action::KnowOneself),
    ("/farm.v1.PeopleService/CreateToken", Action::ManageTokens),
    ("/farm.v1.PeopleService/ListTokens", Action::ManageTokens),
    ("/farm.v1.PeopleService/RevokeToken", Action::ManageTokens),
    ("/farm.v1.PeopleService/CreateServiceToken", Action::ManageMembers),
    ("/farm.v1.PeopleService/CreatePersonToken", Action::ManagePersons),
    ("/farm.v1.PeopleService/SetFarmAdmin", Action::ManagePersons),
    ("/farm.v1.PeopleService/ListFarmAdmins", Action::ManagePersons),
    ("/farm.v1.ProjectService/ListProjects", Action::ListProjects),
    ("/farm.v1.ProjectService/CreateProject", Action::ManageProjects),
    ("/farm.v1.ProjectService/RemoveProject", Action::ManageProjects),
    ("/farm.v1.ProjectService/AllowRepositories", Action::ManageProjects),
    ("/farm.v1.ProjectService/AllowEntitlements", Action::ManageProjects),
    ("/farm.v1.ProjectService/SetProjectQuota", Action::ManageProjects),
    ("/farm.v1.ProjectService/ProtectTags", Action::ManageMembers),
    ("/farm.v1.ProjectService/SetProjectDefaults", Action::ManageMembers),
    ("/farm.v1.ProjectService/GetAccess", Action::ReadMembers),
    ("/farm.v1.ProjectService/GetProjectSettings", Action::ReadMembers),
    ("/farm.v1.ProjectService/GetUsage", Action::ReadBuilds),
    ("/farm.v1.ProjectService/ListMembers", Action::ReadMembers),
    ("/farm.v1.ProjectService/SetMember", Action::ManageMembers),
    ("/farm.v1.ProjectService/RemoveMember", Action::ManageMembers),
    ("/farm.v1.TrustService/GetAudience", Action::Exchange),
    ("/farm.v1.TrustService/ExchangeToken", Action::Exchange),
    ("/farm.v1.SignInService/GetSignIn", Action::SignIn),
    ("/farm.v1.SignInService/BeginDeviceSignIn", Action::SignIn),
    ("/farm.v1.SignInService/SignIn", Action::SignIn),
    ("/farm.v1.SignInService/LinkPerson", Action::ManagePersons),
    ("/farm.v1.SignInService/UnlinkPerson", Action::ManagePersons),
    ("/farm.v1.TrustService/AddTrust", Action::ManageTrusts),
    ("/farm.v1.TrustService/ListTrusts", Action::ManageTrusts),
    ("/farm.v1.TrustService/RemoveTrust", Action::ManageTrusts),
    ("/farm.v1.SecretService/SetSecret", Action::ManageSecrets),
    ("/farm.v1.SecretService/RemoveSecret", Action::ManageSecrets),
    ("/farm.v1.SecretService/ListSecrets", Action::ReadSecrets),
    ("/farm.v1.RegistryService/SetRegistryLogin", Action::ManageLogins),
    ("/farm.v1.RegistryService/ListRegistryLogins", Action::ManageLogins),
    ("/farm.v1.RegistryService/RemoveRegistryLogin", Action::ManageLogins),
    ("/farm.v1.GitService/SetGitLogin", Action::ManageLogins),
    ("/farm.v1.GitService/ListGitLogins", Action::ManageLogins),
    ("/farm.v1.GitService/RemoveGitLogin", Action::ManageLogins),
    ("/farm.v1.SigningService/ListSigningKeys", Action::ReadSigningKeys),
    ("/farm.v1.SigningService/SetSigningKey", Action::ManageSigningKeys),
    ("/farm.v1.SigningService/RemoveSigningKey", Action::ManageSigningKeys),
    ("/farm.v1.HookService/ListHooks", Action::ReadHooks),
    ("/farm.v1.HookService/ListDeliveries", Action::ReadHooks),
    ("/farm.v1.HookService/GetHookRules", Action::ReadHooks),
    ("/farm.v1.HookService/GetProposal", Action::ReadHooks),
    ("/farm.v1.HookService/ApproveBuild", Action::Approve),
    ("/farm.v1.HookService/AddHook", Action::ManageHooks),
    ("/farm.v1.HookService/TestHook", Action::ManageHooks),
    ("/farm.v1.HookService/Redeliver", Action::ManageHooks),
    ("/farm.v1.HookService/SetHook", Action::ManageHooks),
    ("/farm.v1.HookService/RotateHook", Action::ManageHooks),
    ("/farm.v1.HookService/SetHookToken", Action::ManageHooks),
    ("/farm.v1.HookService/InstallHook", Action::ManageHooks),
    ("/farm.v1.HookService/RemoveHookToken", Action::ManageHooks),
    ("/farm.v1.HookService/SetHookRules", Action::ManageHooks),
    ("/farm.v1.HookService/RemoveHook", Action::ManageHooks),
    ("/farm.v1.NoticeService/ListNotices", Action::ReadNotices),
    ("/farm.v1.NoticeService/AddNotice", Action::ManageNotices),
    ("/farm.v1.NoticeService/TestNotice", Action::ManageNotices),
    ("/farm.v1.NoticeService/RotateNotice", Action::ManageNotices),
    ("/farm.v1.NoticeService/RemoveNotice", Action::ManageNotices),
    ("/farm.v1.AuditService/ListAudit", Action::ReadAudit),
    ("/farm.v1.AuditService/ListFarmAudit", Action::ReadFarmAudit),
    ("/farm.v1.AuditService/VerifyAudit", Action::ReadFarmAudit),
    ("/farm.v1.MachineService/InviteWorker", Action::InviteWorkers),
    ("/farm.v1.MachineService/ListInvitations", Action::InviteWorkers),
    ("/farm.v1.MachineService/WithdrawInvitation", Action::InviteWorkers),
    ("/farm.v1.MachineService/RevokeWorkers", Action::InviteWorkers),
    ("/farm.v1.MachineService/JoinFarm", Action::Join),
    ("/farm.v1.MachineService/RenewCertificate", Action::Renew),
    ("/farm.v1.WorkerService/Control", Action::Work),
    ("/farm.v1.WorkerService/SendEvents", Action::Work),
    ("/farm.v1.WorkerService/FetchFolders", Action::Work),
    ("/farm.v1.WorkerService/FetchFiles", Action::Work),
    ("/farm.v1.WorkerService/SendOutput", Action::Work),
    ("/farm.v1.WorkerService/LendToken", Action::Work),
    ("/farm.v1.WorkerService/LendLogin", Action::Work),
    ("/farm.v1.WorkerService/LookUpImage", Action::Work),
    ("/farm.v1.WorkerService/LendMounts", Action::Work),
    ("/farm.v1.WorkerService/LendGitLogin", Action::Work),
    ("/farm.v1.WorkerService/CheckKept", Action::Work),
    ("/farm.v1.WorkerService/CheckPushed", Action::Work),
    ("/farm.v1.WorkerService/FindVerdicts", Action::Work),
    ("/farm.v1.WorkerService/AskAgent", Action::Work),
    ("/farm.v1.WorkerService/OpenSource", Action::Work),
    ("/farm.v1.WorkerService/FindMissingSource", Action::Work),
    ("/farm.v1.WorkerService/SendSource", Action::Work),
    ("/farm.v1.WorkerService/FinishSource", Action::Work),
    ("/farm.v1.PeerService/Hint", Action::Hint),
    ("/farm.v1.PeerService/RelayAgent", Action::Hint),
];

/// Every page of builds that is shown to browsers, as documents name it, with what one does by it.
pub const PAGES: &[(&str, Action)] = &[
    ("/b/BUILD", Action::ReadBuilds),
    ("/b/BUILD/log", Action::ReadBuilds),
    ("/b/BUILD/approve", Action::Approve),
];

/// What a call of this path does; `None`: there is no such method.
pub fn action(path: &str) -> Option<Action> {
    METHODS.iter().find(|(method, _)| *method == path).map(|(_, action)| *action)
}

impl Needs {
    /// The words for it.
    pub fn words(self) -> String {
        match self {
            Self::Nothing => "nothing".to_owned(),
            Self::Identity => "a token that the farm knows".to_owned(),
            Self::Role(role) => format!("{role} of the project"),
            Self::FarmAdmin => "admin of the farm".to_owned(),
            Self::Worker => "a worker".to_owned(),
            Self::Certificate => "a worker's certificate, at most 24 h over its time".to_owned(),
            Self::Coordinator => "a coordinator".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;

    use super::*;

    /// Every method in the descriptors that clients are given.
    fn served() -> BTreeSet<String> {
        let files = prost_types::FileDescriptorSet::decode(farm_proto::DESCRIPTORS).unwrap();
        let mut served = BTreeSet::new();
        for file in &files.file {
            for service in &file.service {
                for method in &service.method {
                    served.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                }
            }
        }
        served
    }

    #[test]
    fn every_method_has_one_row_and_every_row_a_method() {
        let rows: Vec<&str> = METHODS.iter().map(|(method, _)| *method).collect();
        let own: BTreeSet<String> =
            rows.iter().filter(|row| row.starts_with("/farm.")).map(|row| (*row).to_owned()).collect();
        assert_eq!(own, served());
        assert_eq!(rows.iter().collect::<BTreeSet<_>>().len(), rows.len(), "a method has two rows");
    }

    /// `TRYCMD=overwrite` writes what is missing, as it does for transcripts.
    #[test]
    fn the_documents_list_every_right() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/rights.md");
        let text = std::fs::read_to_string(path).unwrap();
        let head = "| to | needs | methods |\n|---|---|---|\n";
        let (before, _) = text.split_once(head).unwrap();
        let mut made = format!("{before}{head}");
        let mut told = Vec::new();
        for (_, action) in METHODS {
            if told.contains(action) {
                continue;
            }
            told.push(*action);
            let methods: Vec<String> = METHODS
                .iter()
                .filter(|(_, other)| other == action)
                .map(|(method, _)| format!("`{}`", method.rsplit('/').next().unwrap()))
                .chain(PAGES.iter().filter(|(_, other)| other == action).map(|(page, _)| format!("`{page}`")))
                .collect();
            made.push_str(&format!(
                "| {} | {} | {} |\n",
                action.words(),
                action.needs().words(),
                methods.join(", ")
            ));
        }
        if std::env::var_os("TRYCMD").is_some_and(|value| value == "overwrite") {
            std::fs::write(path, made).unwrap();
            return;
        }
        assert_eq!(text, made, "run it with TRYCMD=overwrite after a change on purpose");
    }
}
