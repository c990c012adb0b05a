package pgcluster

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// account is the user that the server runs as: PostgreSQL refuses root. The
// zero account is the user of this process.
type account struct {
	credential *syscall.Credential
}

// serverAccount returns this process's user, or for root the first of postgres
// and nobody that exists: initdb needs one with a name.
func serverAccount() (account, error) {
	if os.Geteuid() != 0 {
		return account{}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if uidErr == nil && gidErr == nil {
			return account{&syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
		}
	}
	return account{}, errors.New("PostgreSQL does not run as root, and this machine has neither a user postgres nor nobody to run it as")
}

// command prepares a program to run as the account, in a process group of its
// own so that Ctrl-C at the terminal does not reach it.
func (a account) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // PostgreSQL's programs and our own scripts
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: a.credential}
	return cmd
}

// own makes a folder that only the account can enter.
func (a account) own(folder string) error {
	if err := os.Chmod(folder, 0o700); err != nil { //nolint:gosec // a folder
		return err
	}
	if a.credential == nil {
		return nil
	}
	return os.Chown(folder, int(a.credential.Uid), int(a.credential.Gid))
}

// reaches reports whether the account may enter a folder.
func (a account) reaches(ctx context.Context, folder string) bool {
	return a.command(ctx, "/bin/sh", "-c", `cd "$1"`, "sh", folder).Run() == nil
}
