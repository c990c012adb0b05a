package dev

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// proveApart tries on every node to reach one tenant with the other's
// certificate, and with the other's identifiers: keys are those of each tenant.
func proveApart(ctx context.Context, out io.Writer, tenants [2]*tenantSetup, keys [2]kmip.ObjectID) error {
	p := &proof{out: out}
	fmt.Fprint(out, "\nThe tenants compared with each other, on both nodes\n")
	one, two := tenants[0], tenants[1]
	onBoth := func(what string, try func(node int) error) {
		p.check(what, errors.Join(try(0), try(1)))
	}
	onBoth("tenant 1's certificate is refused at tenant 2's port", func(node int) error {
		return turnedAway(ctx, withCertificate(two.servers[node], &one.certificate))
	})
	onBoth("tenant 1's certificate is refused at tenant 2's name", func(node int) error {
		shared := withCertificate(one.servers[node], &one.certificate)
		shared.ServerName, shared.VerifyName = two.own.Hostname, two.own.Hostname
		return turnedAway(ctx, shared)
	})
	onBoth("tenant 2's certificate is refused at the shared endpoints", func(node int) error {
		return turnedAway(ctx, withCertificate(one.servers[node], &two.certificate))
	})
	onBoth("tenant 2 is reached at the shared port by its own name", func(node int) error {
		shared := withCertificate(one.servers[node], &two.certificate)
		shared.ServerName, shared.VerifyName = two.own.Hostname, two.own.Hostname
		return (&client.VCenter{Server: client.Spread(shared)}).HealthPoll(ctx)
	})
	for n, t := range tenants {
		onBoth(fmt.Sprintf("to tenant %d a key of tenant %d is as unknown as one that never was", n+1, 2-n), func(node int) error {
			return unknownAlike(ctx, t.servers[node], keys[1-n])
		})
	}
	return errors.Join(p.failed...)
}

func withCertificate(c client.Config, certificate *tls.Certificate) client.Config {
	c.Certificate = certificate
	return c
}

var errServed = errors.New("it was not refused")

// turnedAway wants a server not to serve.
func turnedAway(ctx context.Context, c client.Config) error {
	err := (&client.VCenter{Server: client.Spread(c)}).HealthPoll(ctx)
	var alert *net.OpError
	switch {
	case err == nil:
		return fmt.Errorf("%s: %w", c.Address, errServed)
	case errors.As(err, &alert) && alert.Op == "remote error": // crypto/tls: an alert
		return nil
	}
	return fmt.Errorf("%s: %w", c.Address, err)
}

// unknownAlike wants the same answer to Get for a foreign key and for none.
func unknownAlike(ctx context.Context, c client.Config, foreign kmip.ObjectID) error {
	conn, err := client.Dial(ctx, c)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // every answer has been read
	var answers [2]client.ResultError
	for n, id := range []kmip.ObjectID{foreign, kmip.ObjectID(uuid.NewString())} {
		key, err := conn.Get(ctx, id)
		key.Wipe()
		var refused *client.ResultError
		if !errors.As(err, &refused) {
			return fmt.Errorf("%s: %w", c.Address, errors.Join(errServed, err))
		}
		answers[n] = *refused
	}
	if answers[0] != answers[1] {
		return fmt.Errorf("%s answers two ways: %w", c.Address, errors.Join(&answers[0], &answers[1]))
	}
	return nil
}
