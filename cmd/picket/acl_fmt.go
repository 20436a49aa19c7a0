package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/urfave/cli/v2"

	"picket.internal/acl"
	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator/protocol"
)

func aclFmtCommand() *cli.Command {
	return &cli.Command{
		Name:      "fmt",
		Usage:     "lay a policy file out in its canonical form, comments kept",
		ArgsUsage: "FILE",
		Description: "Prints it, unless -w or -d is given. - is standard input. What the policy means never changes.\n\n" +
			"Exit status 1 when -d finds a difference, 2 when the file is no HuJSON.\n\nExamples:\n\n" +
			"   picket acl fmt policy.hujson\n   picket acl fmt -w policy.hujson\n   picket acl fmt -d policy.hujson",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "write", Aliases: []string{"w"}, Usage: "write it back to the file"},
			&cli.BoolFlag{Name: "diff", Aliases: []string{"d"}, Usage: "print what would change"},
		},
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 1, 1, "FILE"); err != nil {
				return err
			}
			path := c.Args().First()
			if c.Bool("write") && path == "-" {
				return cliflags.Usage(c, "-w needs a file, not standard input")
			}
			text, err := readFile(c, path)
			if err != nil {
				return cli.Exit(err, cliflags.ExitUsage)
			}
			laidOut, err := acl.Format(text)
			if err != nil {
				return refused(c, fileName(path), err)
			}
			return finishFmt(c, path, text, laidOut)
		},
	}
}

func finishFmt(c *cli.Context, path string, text, laidOut []byte) error {
	same := bytes.Equal(text, laidOut)
	if c.Bool("write") && !same {
		if err := replaceFile(path, laidOut); err != nil {
			return fmt.Errorf("write %s: %s", fileName(path), protocol.Printable(err.Error()))
		}
	}
	switch {
	case c.Bool("diff") && !same:
		name := fileName(path)
		if _, err := c.App.Writer.Write(diff.Diff(name+".orig", text, name, laidOut)); err != nil {
			return err
		}
		return cli.Exit("", cliflags.ExitFailed)
	case !c.Bool("diff") && !c.Bool("write"):
		_, err := c.App.Writer.Write(laidOut)
		return err
	}
	return nil
}

// replaceFile gives the file at path, or the one that a link there leads to, new content in one step, and keeps its mode: whoever reads it
// meanwhile, or after a crash, finds the old text or the new one.
func replaceFile(path string, content []byte) (err error) {
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("it is no regular file")
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".picket-fmt-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // once it is renamed there is nothing under that name
	if err := fill(f, content, info.Mode().Perm()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// fill writes f, brings it to the disk and closes it.
func fill(f *os.File, content []byte, mode fs.FileMode) error {
	_, err := f.Write(content)
	return errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
}
