"""Every statement of the theory, evaluated on the policy at hand."""
