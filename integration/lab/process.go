//go:build linux

package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Process is a program started by a lab, its output kept in a file.
type Process struct {
	Cmd  *exec.Cmd
	Log  string // file with standard output and standard error
	done chan struct{}
	err  error
}

// start runs cmd from the thread, and so in its namespace. The child dies with this process.
func (t *thread) start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	dieWithParent(cmd.SysProcAttr)
	return t.Do(cmd.Start)
}

// daemon starts a program that goes on, its output in dir/name.log (appended, so a restarted one keeps its history).
func (t *thread) daemon(dir, name string, args ...string) (*Process, error) {
	p := &Process{Log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.Cmd = exec.Command(args[0], args[1:]...)
	p.Cmd.Stdout, p.Cmd.Stderr = log, log
	if err := t.start(p.Cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(args[0]), err)
	}
	go func() {
		p.err = p.Cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// run runs a program to its end and returns what it printed on standard output; the error carries standard error.
func (t *thread) run(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	cmd.WaitDelay = time.Second
	if err := t.start(cmd); err != nil {
		return "", fmt.Errorf("start %s: %w", filepath.Base(args[0]), err)
	}
	if err := cmd.Wait(); err != nil {
		return out.String(), &ExitError{Args: args, Err: err, Stderr: errs.String(), Code: cmd.ProcessState.ExitCode()}
	}
	return out.String(), nil
}

// ExitError is a program that did not end well.
type ExitError struct {
	Args   []string
	Err    error
	Stderr string
	Code   int // exit status; -1 when ended by a signal
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("%s %v: %v\n%s", filepath.Base(e.Args[0]), e.Args[1:], e.Err, e.Stderr)
}

// Signal sends s.
func (p *Process) Signal(s os.Signal) error { return p.Cmd.Process.Signal(s) }

// Kill ends the process as kill -9 does, and waits.
func (p *Process) Kill() {
	_ = p.Cmd.Process.Kill()
	<-p.done
}

// Stop asks the process to end, and kills it after grace.
func (p *Process) Stop(grace time.Duration) error {
	_ = p.Cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return p.err
	case <-time.After(grace):
		p.Kill()
		return fmt.Errorf("%s did not stop within %v and was killed; its log is %s", filepath.Base(p.Cmd.Path), grace, p.Log)
	}
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Output returns what the process has printed so far.
func (p *Process) Output() string {
	b, _ := os.ReadFile(p.Log)
	return string(b)
}

// WaitFor blocks until the process has printed a line for which found returns true; an error when it ends or ctx does first.
func (p *Process) WaitFor(ctx context.Context, what string, found func(output string) bool) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if found(p.Output()) {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.done:
			if found(p.Output()) {
				return nil
			}
			return fmt.Errorf("%s ended (%v) before %s:\n%s", filepath.Base(p.Cmd.Path), p.err, what, p.Output())
		case <-ctx.Done():
			return fmt.Errorf("%s: no %s in time:\n%s", filepath.Base(p.Cmd.Path), what, p.Output())
		}
	}
}

// cleanup runs deferred work in reverse order, once.
type cleanup struct {
	mu   sync.Mutex
	jobs []func()
}

func (c *cleanup) add(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.jobs = append(c.jobs, f)
}

func (c *cleanup) run() {
	c.mu.Lock()
	jobs := c.jobs
	c.jobs = nil
	c.mu.Unlock()
	for i := len(jobs) - 1; i >= 0; i-- {
		jobs[i]()
	}
}
