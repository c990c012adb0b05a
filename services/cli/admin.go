package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/caarlos0/env/v11"
	"github.com/spf13/cobra"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/iam"
	"github.com/kmip-for-vmware/kmip/libs/keyprotect"
	"github.com/kmip-for-vmware/kmip/libs/obs"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// newAdmin returns the commands that work on a cell beside its control planes.
func newAdmin() *cobra.Command {
	c := group("admin", "Look after the keys of a cell", newReconcile(), newRebuild())
	c.Long = "Look after the keys of a cell, beside its control planes and nodes. These commands reach the database and\n" +
		"the tenants' key managers themselves, and take kmip-control's environment variables: DATABASE_URL,\n" +
		"KMIP_KEY_MANAGER_ENDPOINTS, KMIP_SEALING_KEYS_FILE, KMIP_IAM_URL and KMIP_SERVICE_API_KEY_FILE."
	return c
}

// settings are those of kmip-control that lead to a cell's keys.
type settings struct {
	DatabaseURL         string `env:"DATABASE_URL"`
	IAMURL              string `env:"KMIP_IAM_URL" envDefault:"https://iam.cloud.ibm.com"`
	KeyManagerEndpoints string `env:"KMIP_KEY_MANAGER_ENDPOINTS"`
	SealingKeysFile     string `env:"KMIP_SEALING_KEYS_FILE"`
	ServiceAPIKeyFile   string `env:"KMIP_SERVICE_API_KEY_FILE"`
}

// cell is a cell's database and its tenants' key managers.
type cell struct {
	pool      *pg.Pool
	instances *pg.Instances
	ledger    *pg.Ledger
	managers  *keyprotect.Factory
}

// openCell reads the environment. Its error lists every problem, one per line,
// with variable and remedy.
func openCell(ctx context.Context) (*cell, error) {
	s, err := env.ParseAs[settings]()
	if err != nil {
		return nil, err
	}
	var problems []error
	problem := func(variable string, err error, remedy string) {
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w; %s", variable, err, remedy))
		}
	}
	c := &cell{managers: &keyprotect.Factory{Now: obs.Now}}
	if s.DatabaseURL == "" {
		problem("DATABASE_URL", errNotSet, "set it to postgres://kmip_control:<password>@<host>:<port>/<database>")
	} else {
		c.pool, err = pg.Open(ctx, pg.Config{URL: s.DatabaseURL})
		problem("DATABASE_URL", err, "set it as for kmip-control")
	}
	c.managers.Endpoints, err = keyprotect.ParseEndpoints(s.KeyManagerEndpoints)
	problem("KMIP_KEY_MANAGER_ENDPOINTS", err, "set it as for kmip-control")
	if c.managers.Keyring, err = secret.ReadKeyring(s.SealingKeysFile); s.SealingKeysFile == "" {
		err = errNotSet
	}
	problem("KMIP_SEALING_KEYS_FILE", err, "set it as for kmip-control")
	tokens, err := iam.NewTokens(iam.Config{URL: s.IAMURL, Now: obs.Now})
	problem("KMIP_IAM_URL", err, "leave it out for IBM Cloud")
	c.managers.Tokens = func(apiKey *secret.Bytes) keyprotect.Tokens { return tokens.ForAPIKey(apiKey) }
	if s.ServiceAPIKeyFile != "" && tokens != nil {
		key, err := secret.ReadFile(s.ServiceAPIKeyFile)
		problem("KMIP_SERVICE_API_KEY_FILE", err, "set it as for kmip-control, or leave it out")
		if err == nil {
			own := tokens.ForAPIKey(key)
			c.managers.Service = func(instanceCRN string) keyprotect.Tokens { return tokens.ForInstance(own, instanceCRN) }
		}
	}
	if len(problems) > 0 {
		if c.pool != nil {
			c.pool.Close()
		}
		return nil, errors.Join(problems...)
	}
	c.instances, c.ledger = pg.NewInstances(c.pool), pg.NewLedger(c.pool)
	return c, nil
}

var errNotSet = errors.New("not set")

// subject returns the instance with an id.
func (c *cell) subject(ctx context.Context, id string) (pg.Subject, error) {
	all, err := c.instances.Connected(ctx)
	if err != nil {
		return pg.Subject{}, err
	}
	for _, s := range all {
		if string(s.Instance) == id {
			return s, nil
		}
	}
	return pg.Subject{}, fmt.Errorf("this cell has no instance %q with a key manager; take the id of the REST API, in lower case", id)
}

// tenant returns an instance with all that its keys may need.
func (c *cell) tenant(ctx context.Context, s pg.Subject) (*tenant.Tenant, error) {
	i, err := c.instances.Get(ctx, s.Account, s.Instance)
	if err != nil {
		return nil, err
	}
	move, _, err := c.instances.GetMove(ctx, s.Account, s.Instance)
	if err != nil {
		return nil, err
	}
	t := i.Tenant(move.Former)
	t.Withheld, err = c.ledger.ListWithheld(ctx, t.ID)
	return t, err
}

// open is an engine.KeyManagers.
func (c *cell) open(t *tenant.Tenant) (engine.KeyManager, error) { return c.managers.For(t) }

// outputFlag adds --output, which print reads.
func outputFlag(c *cobra.Command) {
	c.Flags().String("output", "text", "how to print the result: text or json")
}

// asJSON reports whether the result is to be printed as JSON.
func asJSON(c *cobra.Command) (bool, error) {
	switch format, err := c.Flags().GetString("output"); {
	case err != nil:
		return false, err
	case format == "text", format == "json":
		return format == "json", nil
	default:
		return false, fmt.Errorf("--output %q is not known; it is text or json", format)
	}
}

func printJSON(out io.Writer, document any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(document)
}
