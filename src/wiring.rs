//! Assembles stores, repository, clock, observer and jobs: no logic.
