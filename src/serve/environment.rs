//! Filtering of the environment: the variables that servers do not inherit, and the secrets that are never printed.
//! Pure.

use crate::settings::{ApiKey, Environment, is_secret_name};

/// Prefixes of the variables that launchers set for ranks. A server that sees them acts as a rank: vLLM's own use of
/// MPI or PMI would join, or end, the job.
const LAUNCHER_PREFIXES: [&str; 9] =
    ["PMI_", "PMIX_", "PALS_", "OMPI_", "PRTE_", "MPI_LOCAL", "HYDRA", "HYDI_", "PMI2_"];
/// A shorter value would also match, and hide, parts of ordinary words.
const MIN_SECRET_LEN: usize = 6;

/// Returns the variables that a server with this command must not inherit.
pub(super) fn removed_variables<'a>(environment: &'a Environment, command: &str) -> Vec<&'a str> {
    // Our key is for requests to servers; a server gets its own from VLLM_API_KEY, or from a command that names ours.
    let key = (!command.contains(ApiKey::ENV_VARIABLE)).then_some(ApiKey::ENV_VARIABLE);
    let all = LAUNCHER_PREFIXES.iter().flat_map(|&prefix| environment.starting_with(prefix));
    all.map(|(name, _)| name).chain(key).collect()
}

/// Returns the values that must not appear in messages.
pub(super) fn secret_values(environment: &Environment) -> Vec<String> {
    let hidden =
        |(name, value): &(&str, &str)| is_secret_name(name) && value.trim().len() >= MIN_SECRET_LEN;
    environment.starting_with("").filter(hidden).map(|(_, value)| value.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_launcher_variables_and_our_key_are_removed() {
        let environment = Environment::from([
            ("PMI_RANK", "0"),
            ("PMIX_RANK", "0"),
            ("PALS_RANKID", "0"),
            ("OMPI_COMM_WORLD_SIZE", "2"),
            ("PRTE_X", "1"),
            ("MPI_LOCALNRANKS", "2"),
            ("HYDRA_X", "1"),
            ("HYDI_CONTROL_FD", "7"),
            ("AURORA_SWARM_API_KEY", "secret"),
            ("VLLM_API_KEY", "secret"),
            ("MPICH_X", "1"),
            ("PATH", "/bin"),
        ]);
        let gone = removed_variables(&environment, "vllm serve");
        assert_eq!(gone.len(), 9, "{gone:?}");
        for kept in ["VLLM_API_KEY", "MPICH_X", "PATH"] {
            assert!(!gone.contains(&kept), "{kept}");
        }
        let named = "vllm serve --api-key \"$AURORA_SWARM_API_KEY\"";
        assert!(!removed_variables(&environment, named).contains(&"AURORA_SWARM_API_KEY"));
    }

    #[test]
    fn values_of_keys_and_tokens_are_secret_unless_very_short() {
        let environment = Environment::from([
            ("HF_TOKEN", "hf_0123"),
            ("VLLM_API_KEY", "abcdef"),
            ("SHORT_KEY", "1"),
            ("HOME", "/home/somebody"),
        ]);
        assert_eq!(secret_values(&environment), ["hf_0123", "abcdef"]);
    }
}
