package tour

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// patience is how long a command may run, or be retried. The first command that
	// needs the program may have to wait until it is built.
	patience = 4 * time.Minute
	pause    = 200 * time.Millisecond
	// stopTimeout is how long background processes may take to stop.
	stopTimeout = 15 * time.Second

	// timedOut is curl's exit status when --max-time has passed.
	timedOut = 28
)

// Run runs the steps in directory. Its error names the first step that fails.
// Output other than standard output goes to files in the directory logs.
func Run(ctx context.Context, steps []Step, directory, logs string) error {
	shell, err := open(directory, logs)
	if err != nil {
		return err
	}
	defer shell.close()
	for _, step := range steps {
		if err := shell.run(ctx, step); err != nil {
			return fmt.Errorf("line %d: %s\n%w", step.Line, step.Command, err)
		}
	}
	return nil
}

// shell is a bash that reads commands from its standard input.
type shell struct {
	command *exec.Cmd
	input   io.WriteCloser
	output  *bufio.Reader
	logs    string
	mark    string // precedes the exit status of a command in the output
	steps   int
}

func open(directory, logs string) (*shell, error) {
	s := &shell{command: exec.Command("bash", "--norc", "--noprofile"), logs: logs, mark: rand.Text()}
	s.command.Dir = directory
	s.command.Env = environ()
	// A process group of its own lets kill end everything that the shell started.
	s.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var err error
	if s.input, err = s.command.StdinPipe(); err != nil {
		return nil, err
	}
	output, err := s.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.output = bufio.NewReader(output)
	return s, s.command.Start()
}

// environ returns the environment of a reader: without variables that configure the
// program, and without those that make passes to a child make.
func environ() []string {
	var kept []string
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, "NODESMETADATA_") && !strings.HasPrefix(name, "MAKE") && name != "MFLAGS" {
			kept = append(kept, variable)
		}
	}
	return kept
}

func (s *shell) run(ctx context.Context, step Step) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// A command that hangs is ended by ending the shell.
	unbind := context.AfterFunc(ctx, s.kill)
	defer unbind()
	for {
		got, status, err := s.once(step)
		if err != nil {
			return fmt.Errorf("the command took longer than %v, or ended the shell: %w\n%s", patience, err, s.log())
		}
		fine := status == 0 || status == timedOut && strings.Contains(step.Command, "--max-time")
		if fine && step.Matches(got) {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		if deadline, _ := ctx.Deadline(); time.Until(deadline) < patience/2 || ctx.Err() != nil {
			return fmt.Errorf("the command exits with %d and prints\n%s\ninstead of\n%s\nand to standard error\n%s",
				status, got, strings.Join(step.Output, "\n"), s.log())
		}
	}
}

// once runs the command of a step once, and returns its output and exit status.
func (s *shell) once(step Step) (output string, status int, err error) {
	s.steps++
	command := step.Command
	redirect := " </dev/null 2>" + quote(s.logPath())
	if step.Background {
		command = strings.TrimSuffix(command, " &")
		redirect += " >&2 &"
	}
	// The braces are on lines of their own, so that a comment in the command ends
	// before the closing one.
	if _, err := fmt.Fprintf(s.input, "{\n%s\n}%s\nprintf '\\n%%s %%d\\n' %s $?\n", command, redirect, s.mark); err != nil {
		return "", 0, err
	}
	var all strings.Builder
	for {
		line, err := s.output.ReadString('\n')
		if err != nil {
			return "", 0, err
		}
		if rest, marked := strings.CutPrefix(line, s.mark+" "); marked {
			status, err := strconv.Atoi(strings.TrimSpace(rest))
			return strings.TrimSuffix(all.String(), "\n"), status, err
		}
		all.WriteString(line)
	}
}

func (s *shell) logPath() string { return filepath.Join(s.logs, fmt.Sprintf("step-%d.log", s.steps)) }

// log returns the standard error of the last command and the output of background commands.
func (s *shell) log() string {
	var all strings.Builder
	for n := range s.steps {
		content, err := os.ReadFile(filepath.Join(s.logs, fmt.Sprintf("step-%d.log", n+1)))
		if err == nil && len(content) > 0 && (n+1 == s.steps || len(content) > 1<<10) {
			fmt.Fprintf(&all, "… %s", content[max(0, len(content)-4<<10):])
		}
	}
	return all.String()
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func (s *shell) kill() { _ = syscall.Kill(-s.command.Process.Pid, syscall.SIGKILL) }

// close ends the shell and all background processes, and waits until they have exited.
func (s *shell) close() {
	group := -s.command.Process.Pid
	_ = s.input.Close()
	_ = syscall.Kill(group, syscall.SIGTERM)
	// The process group exists as long as one of its processes does, and the shell,
	// its leader, exists until Wait.
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		_, _ = io.Copy(io.Discard, s.output)
		_ = s.command.Wait()
	}()
	deadline := time.Now().Add(stopTimeout)
	for ; time.Now().Before(deadline); time.Sleep(pause / 10) {
		if syscall.Kill(group, 0) != nil {
			break
		}
	}
	s.kill()
	<-waited
}
