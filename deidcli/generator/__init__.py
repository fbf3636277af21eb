"""Pictures of people who do not exist: MobileStyleGAN in torch, from a package that pip brings."""
