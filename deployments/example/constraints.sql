-- Keys and checks, after the rows: the circular keys leave no order in which the rows could be loaded with them on.

ALTER TABLE users
    ADD CONSTRAINT users_pkey PRIMARY KEY (id),
    ADD CONSTRAINT users_email_key UNIQUE (email),
    ADD CONSTRAINT users_status_check CHECK (status IN ('active', 'inactive'));

ALTER TABLE organizations
    ADD CONSTRAINT organizations_pkey PRIMARY KEY (id),
    ADD CONSTRAINT organizations_code_key UNIQUE (code),
    ADD CONSTRAINT organizations_type_check
        CHECK (type IN ('headquarters', 'branch', 'division', 'subsidiary', 'affiliate')),
    ADD CONSTRAINT organizations_status_check CHECK (status IN ('active', 'inactive', 'suspended'));

ALTER TABLE organization_units
    ADD CONSTRAINT organization_units_pkey PRIMARY KEY (id),
    ADD CONSTRAINT organization_units_type_check
        CHECK (unit_type IN ('root', 'division', 'department', 'section', 'team')),
    ADD CONSTRAINT organization_units_level_check CHECK (hierarchy_level BETWEEN 0 AND 10),
    ADD CONSTRAINT organization_units_root_check CHECK ((hierarchy_level = 0) = (parent_unit_id IS NULL)),
    ADD CONSTRAINT organization_units_status_check CHECK (status IN ('active', 'inactive'));

ALTER TABLE organization_hierarchies
    ADD CONSTRAINT organization_hierarchies_pkey PRIMARY KEY (id),
    ADD CONSTRAINT organization_hierarchies_pair_key UNIQUE (ancestor_unit_id, descendant_unit_id),
    ADD CONSTRAINT organization_hierarchies_depth_check CHECK (depth BETWEEN 0 AND 10),
    ADD CONSTRAINT organization_hierarchies_self_check CHECK ((depth = 0) = (ancestor_unit_id = descendant_unit_id));

ALTER TABLE organization_members
    ADD CONSTRAINT organization_members_pkey PRIMARY KEY (id),
    ADD CONSTRAINT organization_members_status_check CHECK (status IN ('active', 'inactive'));

ALTER TABLE teams
    ADD CONSTRAINT teams_pkey PRIMARY KEY (id),
    ADD CONSTRAINT teams_type_check CHECK (team_type IN ('permanent', 'project', 'task_force')),
    ADD CONSTRAINT teams_status_check CHECK (status IN ('active', 'inactive')),
    ADD CONSTRAINT teams_dates_check CHECK (end_date >= start_date);

ALTER TABLE team_members
    ADD CONSTRAINT team_members_pkey PRIMARY KEY (id),
    ADD CONSTRAINT team_members_allocation_check CHECK (allocation_rate BETWEEN 0 AND 1),
    ADD CONSTRAINT team_members_status_check CHECK (status IN ('active', 'inactive')),
    ADD CONSTRAINT team_members_dates_check CHECK (end_date >= start_date),
    ADD CONSTRAINT team_members_left_check CHECK ((left_at IS NULL) = (status = 'active'));

ALTER TABLE team_leaders
    ADD CONSTRAINT team_leaders_pkey PRIMARY KEY (id),
    ADD CONSTRAINT team_leaders_status_check CHECK (status IN ('active', 'inactive'));

ALTER TABLE governance_policies
    ADD CONSTRAINT governance_policies_pkey PRIMARY KEY (id),
    ADD CONSTRAINT governance_policies_type_check
        CHECK (policy_type IN ('allocation', 'hierarchy', 'access_control', 'approval', 'compliance')),
    ADD CONSTRAINT governance_policies_priority_check CHECK (priority BETWEEN 0 AND 1000),
    ADD CONSTRAINT governance_policies_level_check CHECK (enforcement_level IN ('strict', 'warning', 'audit')),
    ADD CONSTRAINT governance_policies_status_check CHECK (status IN ('active', 'inactive', 'draft')),
    ADD CONSTRAINT governance_policies_dates_check CHECK (effective_until >= effective_from);

ALTER TABLE governance_rules
    ADD CONSTRAINT governance_rules_pkey PRIMARY KEY (id),
    ADD CONSTRAINT governance_rules_severity_check CHECK (severity IN ('error', 'warning', 'info')),
    ADD CONSTRAINT governance_rules_status_check CHECK (status IN ('active', 'inactive'));

ALTER TABLE policy_scopes
    ADD CONSTRAINT policy_scopes_pkey PRIMARY KEY (id),
    ADD CONSTRAINT policy_scopes_target_key UNIQUE (policy_id, target_type, target_id),
    ADD CONSTRAINT policy_scopes_type_check CHECK (target_type IN ('organization', 'unit', 'team', 'user')),
    ADD CONSTRAINT policy_scopes_status_check CHECK (status IN ('active', 'inactive'));

ALTER TABLE policy_violations
    ADD CONSTRAINT policy_violations_pkey PRIMARY KEY (id, detected_at),
    ADD CONSTRAINT policy_violations_type_check CHECK (target_type IN ('organization', 'unit', 'team', 'user')),
    ADD CONSTRAINT policy_violations_severity_check CHECK (severity IN ('error', 'warning', 'info')),
    ADD CONSTRAINT policy_violations_status_check CHECK (status IN ('active', 'resolved', 'dismissed')),
    ADD CONSTRAINT policy_violations_resolved_check CHECK ((resolved_at IS NULL) = (status = 'active'));

ALTER TABLE organizations
    ADD CONSTRAINT organizations_root_unit_fkey FOREIGN KEY (root_unit_id) REFERENCES organization_units (id);
ALTER TABLE organization_units
    ADD CONSTRAINT organization_units_organization_fkey FOREIGN KEY (organization_id) REFERENCES organizations (id),
    ADD CONSTRAINT organization_units_parent_fkey FOREIGN KEY (parent_unit_id) REFERENCES organization_units (id);
ALTER TABLE organization_hierarchies
    ADD CONSTRAINT organization_hierarchies_ancestor_fkey
        FOREIGN KEY (ancestor_unit_id) REFERENCES organization_units (id),
    ADD CONSTRAINT organization_hierarchies_descendant_fkey
        FOREIGN KEY (descendant_unit_id) REFERENCES organization_units (id);
ALTER TABLE organization_members
    ADD CONSTRAINT organization_members_organization_fkey FOREIGN KEY (organization_id) REFERENCES organizations (id),
    ADD CONSTRAINT organization_members_unit_fkey FOREIGN KEY (unit_id) REFERENCES organization_units (id),
    ADD CONSTRAINT organization_members_user_fkey FOREIGN KEY (user_id) REFERENCES users (id);
ALTER TABLE teams
    ADD CONSTRAINT teams_organization_fkey FOREIGN KEY (organization_id) REFERENCES organizations (id),
    ADD CONSTRAINT teams_unit_fkey FOREIGN KEY (unit_id) REFERENCES organization_units (id);
ALTER TABLE team_members
    ADD CONSTRAINT team_members_team_fkey FOREIGN KEY (team_id) REFERENCES teams (id),
    ADD CONSTRAINT team_members_user_fkey FOREIGN KEY (user_id) REFERENCES users (id);
ALTER TABLE team_leaders
    ADD CONSTRAINT team_leaders_team_fkey FOREIGN KEY (team_id) REFERENCES teams (id),
    ADD CONSTRAINT team_leaders_member_fkey FOREIGN KEY (member_id) REFERENCES team_members (id),
    ADD CONSTRAINT team_leaders_user_fkey FOREIGN KEY (user_id) REFERENCES users (id);
ALTER TABLE governance_policies
    ADD CONSTRAINT governance_policies_organization_fkey FOREIGN KEY (organization_id) REFERENCES organizations (id);
ALTER TABLE governance_rules
    ADD CONSTRAINT governance_rules_policy_fkey FOREIGN KEY (policy_id) REFERENCES governance_policies (id);
ALTER TABLE policy_scopes
    ADD CONSTRAINT policy_scopes_policy_fkey FOREIGN KEY (policy_id) REFERENCES governance_policies (id);
ALTER TABLE policy_violations
    ADD CONSTRAINT policy_violations_policy_fkey FOREIGN KEY (policy_id) REFERENCES governance_policies (id),
    ADD CONSTRAINT policy_violations_rule_fkey FOREIGN KEY (rule_id) REFERENCES governance_rules (id),
    ADD CONSTRAINT policy_violations_resolver_fkey FOREIGN KEY (resolved_by) REFERENCES users (id);
