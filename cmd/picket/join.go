package main

import (
	"errors"
	"os"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator/protocol"
	"picket.internal/node"
)

// authKeyVariable is the environment variable that may hold an auth key. There is no flag for it: all of a machine may read command lines.
const authKeyVariable = "PICKET_AUTH_KEY"

// joinFlags have `run` join by itself. They have names in the environment, because containers are told by it.
func joinFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "join", EnvVars: []string{"PICKET_JOIN"}, Usage: "join the network of the coordinator that has this `JOIN` string, https://host:port#FINGERPRINT, and come up at each start"},
		&cli.StringFlag{Name: "auth-key-file", EnvVars: []string{"PICKET_AUTH_KEY_FILE"}, Usage: "with --join: join by the key in `FILE`; else it is taken from " + authKeyVariable + " in the environment"},
		&cli.StringFlag{Name: "hostname", EnvVars: []string{"PICKET_HOSTNAME"}, Usage: "with --join: ask to be called `NAME`"},
	}
}

// readJoining reads joinFlags; nil when the agent is to wait for `picket up`. The key is taken out of the environment, where programs that are started could read it.
func readJoining(c *cli.Context) (*node.Joining, error) {
	file, key := c.String("auth-key-file"), os.Getenv(authKeyVariable)
	if err := os.Unsetenv(authKeyVariable); err != nil {
		return nil, err
	}
	if c.String("join") == "" {
		for _, name := range []string{"auth-key-file", "hostname"} {
			if c.IsSet(name) {
				return nil, cliflags.Usage(c, "--%s is for an agent that joins by itself: give --join JOIN as well", name)
			}
		}
		return nil, nil
	}
	if _, err := protocol.ParseJoin(c.String("join")); err != nil {
		return nil, err
	}
	if file != "" && key != "" {
		return nil, cliflags.Usage(c, "there are two auth keys, in --auth-key-file and in %s: give one", authKeyVariable)
	}
	return &node.Joining{Coordinator: c.String("join"), Hostname: c.String("hostname"), Key: func() (string, error) { return keyToJoin(file, key) }}, nil
}

// keyToJoin reads the file each time: it may be there only later, or be another then.
func keyToJoin(file, key string) (string, error) {
	if file != "" {
		var err error
		if key, err = readAuthKey("file:"+file, nil); err != nil {
			return "", err
		}
	}
	if key == "" {
		return "", errors.New("there is no auth key to join by: make one on the coordinator's host with picket-coordinator keys create --tag tag:NAME, and give it in --auth-key-file or " + authKeyVariable)
	}
	return key, nil
}
