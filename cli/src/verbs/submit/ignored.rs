//! Flags of the builder before BuildKit, which `docker build` and buildx still take, show in no help and ignore. Scripts have
//! them, so farm takes them as well.

/// They have no effect.
#[derive(Debug, Default, clap::Args)]
pub struct Ignored {
    #[arg(long, hide = true)]
    compress: bool,
    #[arg(long, hide = true)]
    force_rm: bool,
    #[arg(long, hide = true)]
    rm: bool,
    #[arg(long, hide = true)]
    squash: bool,
    #[arg(long, hide = true)]
    isolation: Option<String>,
    #[arg(long, hide = true)]
    security_opt: Vec<String>,
    #[arg(long, short = 'm', hide = true)]
    memory: Option<String>,
    #[arg(long, hide = true, allow_negative_numbers = true)]
    memory_swap: Option<String>,
    #[arg(long, short = 'c', hide = true, allow_negative_numbers = true)]
    cpu_shares: Option<i64>,
    #[arg(long, hide = true, allow_negative_numbers = true)]
    cpu_period: Option<i64>,
    #[arg(long, hide = true, allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    #[arg(long, hide = true)]
    cpuset_cpus: Option<String>,
    #[arg(long, hide = true)]
    cpuset_mems: Option<String>,
}

impl Ignored {
    /// What is said of those that somebody may count on.
    pub fn warnings(&self) -> Vec<String> {
        let given = [
            ("--squash", self.squash),
            ("--isolation", self.isolation.is_some()),
            ("--security-opt", !self.security_opt.is_empty()),
            ("--memory", self.memory.is_some()),
            ("--memory-swap", self.memory_swap.is_some()),
            ("--cpu-shares", self.cpu_shares.is_some()),
            ("--cpu-period", self.cpu_period.is_some()),
            ("--cpu-quota", self.cpu_quota.is_some()),
            ("--cpuset-cpus", self.cpuset_cpus.is_some()),
            ("--cpuset-mems", self.cpuset_mems.is_some()),
        ];
        let given = given.into_iter().filter_map(|(flag, is_given)| is_given.then_some(flag));
        given.map(|flag| format!("{flag} has no effect; BuildKit has no such setting of a build")).collect()
    }
}
