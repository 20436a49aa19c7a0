package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"picket.internal/acl"
	"picket.internal/acl/review"
	"picket.internal/cmd/internal/cliflags"
	"picket.internal/cmd/internal/policydiff"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/control"
)

// tokenVariable is the environment variable that may hold the token. There is no flag for it: all of a machine may read command lines.
const tokenVariable = "PICKET_TOKEN"

// whereFlags say who and what exists: a file, or a coordinator that is asked.
func whereFlags() []cli.Flag {
	return append([]cli.Flag{
		&cli.StringFlag{Name: "directory", Usage: "the `FILE` that says who and what exists (see picket acl --help)"},
	}, coordinatorFlags()...)
}

func coordinatorFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "coordinator", Usage: "ask the coordinator that has this `JOIN` string, https://host:port#FINGERPRINT"},
		&cli.StringFlag{Name: "token-file", Usage: "the `FILE` with the token to ask the coordinator with; else it is taken from " + tokenVariable + " in the environment"},
	}
}

// checkWhere refuses flags of whereFlags that contradict each other.
func checkWhere(c *cli.Context) error {
	switch {
	case c.String("coordinator") != "" && c.String("directory") != "":
		return cliflags.Usage(c, "--directory and --coordinator both say who and what exists: give one of them")
	case c.String("coordinator") == "" && c.IsSet("coordinator"):
		return cliflags.Usage(c, "--coordinator is empty: give the join string that the coordinator prints when it starts")
	case c.String("coordinator") == "" && c.IsSet("token-file"):
		return cliflags.Usage(c, "--token-file is for asking a coordinator: --coordinator is missing")
	}
	return nil
}

// asker asks the coordinator that a command line names. What fails ends the command with ExitUsage, as a file that cannot be read does.
type asker struct {
	c      *cli.Context
	client *control.PolicyClient
}

// askerIfGiven is nil where there is no --coordinator.
func askerIfGiven(c *cli.Context) (*asker, error) {
	if err := checkWhere(c); err != nil || c.String("coordinator") == "" {
		return nil, err
	}
	join, err := protocol.ParseJoin(c.String("coordinator"))
	if err != nil {
		return nil, cliflags.Usage(c, "--coordinator: %v", err)
	}
	token, err := readToken(c)
	if err != nil {
		return nil, err
	}
	client, err := control.New(control.Config{Join: join, Proxy: http.ProxyFromEnvironment})
	if err != nil {
		return nil, notAsked(err)
	}
	a := &asker{c: c}
	if a.client, err = client.Policy(c.Context, token); err != nil {
		return nil, notAsked(err)
	}
	return a, nil
}

func notAsked(err error) error { return cli.Exit(err, cliflags.ExitUsage) }

// maxToken bounds what is read for a token, in bytes.
const maxToken = 4096

// readToken takes the token from --token-file, or else from the environment. No error repeats it.
func readToken(c *cli.Context) (string, error) {
	text, from := os.Getenv(tokenVariable), tokenVariable
	if path := c.String("token-file"); path != "" {
		f, err := os.Open(path)
		if err != nil {
			return "", notAsked(fmt.Errorf("the token cannot be read: %s", protocol.Printable(err.Error())))
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxToken))
		if err != nil {
			return "", notAsked(fmt.Errorf("the token cannot be read: %s", protocol.Printable(err.Error())))
		}
		text, from = string(b), fileName(path)
	}
	text = strings.TrimSpace(text)
	if text == "" && !c.IsSet("token-file") {
		return "", cliflags.Usage(c, "a token is missing: name its file with --token-file, or set %s; `picket-coordinator tokens create --for policy:read` makes one", tokenVariable)
	}
	if err := protocol.CheckToken(text); err != nil {
		return "", notAsked(fmt.Errorf("%s: %w", from, err))
	}
	return text, nil
}

// directory is who and what exists.
func (a *asker) directory() (*acl.Directory, error) {
	text, err := a.client.Directory(a.c.Context)
	if err != nil {
		return nil, notAsked(err)
	}
	d, err := acl.ParseDirectory(text)
	return d, refused(a.c, "the coordinator's directory", err)
}

// inForce is the policy that the network follows.
func (a *asker) inForce() (policyFile, error) {
	p, err := a.client.InForce(a.c.Context)
	if err != nil {
		return policyFile{}, notAsked(err)
	}
	f := policyFile{name: policydiff.InForce(p), text: policydiff.Text(p)}
	f.policy, err = acl.Parse(f.text)
	return f, refused(a.c, f.name, err)
}

// live is what the policy in text, called name, would take from the live flows.
func (a *asker) live(name string, text []byte) (*review.Live, error) {
	i, err := a.client.Impact(a.c.Context, text)
	var problem *control.ProblemError
	switch {
	case errors.As(err, &problem) && len(problem.Errors) > 0:
		return nil, refused(a.c, name, acl.Errors(problem.Errors))
	case err != nil:
		return nil, notAsked(err)
	}
	return policydiff.Live(i), nil
}

// directoryIfGiven is nil where neither --directory nor --coordinator is given: an empty one is a network of nobody, and none is a network
// not known.
func directoryIfGiven(c *cli.Context, a *asker) (*acl.Directory, error) {
	switch path := c.String("directory"); {
	case a != nil:
		return a.directory()
	case path != "":
		return readDirectory(c, path)
	}
	return nil, nil
}

// policyOrInForce reads a policy from path; without one it is the policy in force.
func policyOrInForce(c *cli.Context, a *asker, path string) (policyFile, error) {
	if path == "" && a != nil {
		return a.inForce()
	}
	return readPolicy(c, path)
}
