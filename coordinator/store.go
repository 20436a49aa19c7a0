package coordinator

// Store keeps what must outlive the process. (Declared here by its consumer; coordinator/sqlite satisfies it.)
type Store interface{}
