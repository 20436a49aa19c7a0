package picket

import (
	"errors"
	"log/slog"
	"runtime/debug"
	"strings"

	"picket.internal/node/localapi"
	"picket.internal/node/statefile"
)

// Config of a node.
type Config struct {
	// Dir keeps the node's keys and its last map. It is made with mode 0700, and locked: each node needs one of its own. Whoever reads it can be this node.
	Dir string
	// Coordinator is the join string, https://host:port#FINGERPRINT; it may be empty once the node has joined.
	Coordinator string
	// AuthKey admits the node without a person, with the tags that the key was made with. It is not used once the node has joined.
	AuthKey string
	// OnLogin is called, without an AuthKey, with the page that a person must open to let the node in, and the code to type there. Start waits until it returns, and then for the person.
	OnLogin func(url, code string)
	// Name is what the node asks to be called: 1 to 63 lower-case letters, digits and hyphens. Empty takes the host's.
	Name string
	// Port is the UDP port of the tunnel; 0 lets the system choose.
	Port uint16
	// Logger is told what the node does; nil for nobody.
	Logger *slog.Logger
}

// joinable is what is missing for a node that has not joined; nil when nothing is. known says that it has been in a network before.
func (c Config) joinable(known bool) error {
	switch {
	case c.Coordinator == "" && !known:
		return errors.New("this node has not joined a network: give Config.Coordinator, the join string that the coordinator prints")
	case c.AuthKey == "" && c.OnLogin == nil:
		return errors.New("this node is not in a network: give Config.AuthKey (picket-coordinator keys create), or Config.OnLogin to show a person where to log in")
	}
	return nil
}

func (c Config) up() localapi.Up {
	off := false // the program asks no names of the node's resolver
	return localapi.Up{Coordinator: c.Coordinator, AuthKey: c.AuthKey, Hostname: c.Name, DNS: &off}
}

// openState opens Dir.
func (c Config) openState() (*statefile.Dir, error) {
	if c.Dir == "" {
		return nil, errors.New("Config.Dir is empty: name a directory for the node's keys")
	}
	dir, err := statefile.Open(c.Dir)
	return dir, inGo(err)
}

// inGo puts a field in the place of the agent's flag in what a refusal says to do.
func inGo(err error) error {
	var refused *statefile.Error
	if !errors.As(err, &refused) {
		return err
	}
	said := *refused
	said.Remedy = strings.ReplaceAll(said.Remedy, "with --state", "in Config.Dir")
	return &said
}

// version is that of this module, as the program was built with it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "embedded"
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == "picket.internal" && m.Version != "" {
			return m.Version
		}
	}
	return "embedded"
}
