//! Which rank a launcher says this process is.

use crate::error::{Error, Result};

/// What a launcher has put into the environment of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The launcher, as users call it.
    pub launcher: &'static str,
    pub rank: usize,
    pub size: usize,
}

/// Launchers with their variables, the innermost first: people start torchrun by srun, and mpirun within an allocation of Slurm. A batch
/// script of Slurm itself has a `SLURM_PROCID`, but is no step with tasks.
const VARIABLES: [(&str, &str, &str); 4] = [
    ("torchrun", "RANK", "WORLD_SIZE"),
    ("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("mpiexec", "PMI_RANK", "PMI_SIZE"),
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
];

/// Where launchers say which of the processes of its machine this one is.
const LOCAL: [&str; 4] = ["LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"];

/// The number of this process among those of its machine; none where no launcher says it.
///
/// # Errors
/// [`Error::Config`] for a variable that is no number.
pub fn local_rank() -> Result<Option<usize>> {
    local_rank_with(|name| std::env::var(name).ok())
}

fn local_rank_with(value: impl Fn(&str) -> Option<String>) -> Result<Option<usize>> {
    let Some((name, text)) = LOCAL.iter().find_map(|name| Some((name, value(name)?))) else { return Ok(None) };
    let wrong = |_| Error::config(*name, format!("{text:?} is no number of a process; unset it"));
    text.parse().map(Some).map_err(wrong)
}

/// What the environment says; none for a process alone, or the only one of its launcher.
///
/// # Errors
/// [`Error::Config`] for variables that are no rank of a group.
pub fn launched() -> Result<Option<Launch>> {
    launched_with(|name| std::env::var(name).ok())
}

fn launched_with(value: impl Fn(&str) -> Option<String>) -> Result<Option<Launch>> {
    for (launcher, rank_name, size_name) in VARIABLES {
        let (Some(rank), Some(size)) = (value(rank_name), value(size_name)) else { continue };
        return match (rank.parse::<usize>(), size.parse::<usize>()) {
            (Ok(rank), Ok(size)) if rank < size => Ok((size > 1).then_some(Launch { launcher, rank, size })),
            _ => {
                let problem = format!("{rank} with {size_name} = {size} is no rank of a group; unset both, or start with {launcher}");
                Err(Error::config(rank_name, problem))
            }
        };
    }
    Ok(None)
}

/// Refuses a group that MPI does not see as its launcher does: the program of one MPI under the launcher of another would be as many runs
/// of one rank.
///
/// # Errors
/// [`Error::Config`] with both.
pub fn check_world(launch: &Launch, rank: usize, size: usize) -> Result<()> {
    if (rank, size) == (launch.rank, launch.size) {
        return Ok(());
    }
    let Launch { launcher, rank: wanted, size: started } = launch;
    let problem = format!(
        "{launcher} has started {started} processes, this one as rank {wanted}, but MPI sees {size}, this one as rank {rank}: on CPUs, start \
         with the mpirun of the MPI that dsr was built with"
    );
    Err(Error::config("ranks", problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_launcher_says_who_this_is() {
        let of = |pairs: &[(&str, &str)]| {
            launched_with(|name| pairs.iter().find(|(other, _)| *other == name).map(|(_, value)| value.to_string()))
        };
        let some = |launcher, rank, size| Some(Launch { launcher, rank, size });
        let mpirun = [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2")];
        let slurm = [("SLURM_PROCID", "3"), ("SLURM_STEP_NUM_TASKS", "8")];
        let torchrun = [("RANK", "0"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "0")];
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&mpirun).unwrap(), some("mpirun", 1, 2));
        assert_eq!(of(&slurm).unwrap(), some("srun", 3, 8));
        assert_eq!(of(&[("PMI_RANK", "1"), ("PMI_SIZE", "3")]).unwrap(), some("mpiexec", 1, 3));
        assert_eq!(of(&[&slurm[..], &mpirun].concat()).unwrap(), some("mpirun", 1, 2));
        assert_eq!(of(&[&slurm[..], &torchrun].concat()).unwrap(), some("torchrun", 0, 4));
        // A batch script that starts one process, and a group of one.
        assert_eq!(of(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")]).unwrap(), None);
        assert_eq!(of(&[("RANK", "0"), ("WORLD_SIZE", "1")]).unwrap(), None);
        let text = of(&[("RANK", "4"), ("WORLD_SIZE", "4")]).unwrap_err().to_string();
        assert_eq!(text, "RANK: 4 with WORLD_SIZE = 4 is no rank of a group; unset both, or start with torchrun");
        assert!(of(&[("RANK", "x"), ("WORLD_SIZE", "4")]).is_err());
    }

    #[test]
    fn the_launcher_says_which_process_of_its_machine_this_is() {
        let of = |pairs: &[(&str, &str)]| {
            local_rank_with(|name| pairs.iter().find(|(other, _)| *other == name).map(|(_, value)| value.to_string()))
        };
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&[("SLURM_LOCALID", "3")]).unwrap(), Some(3));
        assert_eq!(of(&[("SLURM_LOCALID", "3"), ("LOCAL_RANK", "1")]).unwrap(), Some(1));
        assert_eq!(of(&[("LOCAL_RANK", "a")]).unwrap_err().to_string(), "LOCAL_RANK: \"a\" is no number of a process; unset it");
    }

    #[test]
    fn a_world_of_another_size_is_refused() {
        let launch = Launch { launcher: "mpirun", rank: 1, size: 4 };
        assert!(check_world(&launch, 1, 4).is_ok());
        let text = check_world(&launch, 0, 1).unwrap_err().to_string();
        assert!(
            text.starts_with("ranks: mpirun has started 4 processes, this one as rank 1, but MPI sees 1, this one as rank 0"),
            "{text}"
        );
    }
}
