package pgcluster

import (
	"context"
	"os"
	"path/filepath"
)

// standbyFile in a data folder makes its server a standby, until that is promoted
// (PostgreSQL, Standby Server Operation).
const standbyFile = "standby.signal"

// CopyTo writes a backup of the running cluster into a folder that holds none.
// Start finds it there as Config.Dir: the cluster as it was, or a standby.
func (c *Cluster) CopyTo(ctx context.Context, dir string) error {
	bin, err := Find()
	if err != nil {
		return err
	}
	as, err := serverAccount()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the server's account passes through; data is private
		return err
	}
	to, err := home(ctx, dir, as)
	if err != nil {
		return err
	}
	data := filepath.Join(to, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return err
	}
	if err := as.own(data); err != nil {
		return err
	}
	out, err := as.command(ctx, filepath.Join(bin, "pg_basebackup"),
		"-D", data, "-d", c.SuperuserURL(superuser), "--checkpoint=fast", "--no-sync").CombinedOutput()
	if err != nil {
		return explain("pg_basebackup could not copy the database to "+to, err, string(out))
	}
	return nil
}
