-- The tables without keys, checks, indexes and triggers: those come after the rows.

CREATE TABLE users (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    email varchar(255) NOT NULL,
    name varchar(100) NOT NULL,
    status varchar(20) NOT NULL DEFAULT 'active',
    created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE organizations (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    name varchar(200) NOT NULL,
    code varchar(50) NOT NULL,
    type varchar(50) NOT NULL,
    description text,
    status varchar(20) NOT NULL DEFAULT 'active',
    root_unit_id uuid,
    created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    deleted_at timestamp
);

CREATE TABLE organization_units (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL,
    name varchar(200) NOT NULL,
    parent_unit_id uuid,
    hierarchy_level int NOT NULL DEFAULT 0,
    path varchar(500) NOT NULL,
    unit_type varchar(50) NOT NULL,
    description text,
    member_count int NOT NULL DEFAULT 0,
    status varchar(20) NOT NULL DEFAULT 'active',
    created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    deleted_at timestamp
);

CREATE TABLE organization_hierarchies (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    ancestor_unit_id uuid NOT NULL,
    descendant_unit_id uuid NOT NULL,
    depth int NOT NULL,
    path varchar(500),
    created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE organization_members (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL,
    unit_id uuid NOT NULL,
    user_id uuid NOT NULL,
    role_in_unit varchar(100),
    status varchar(20) NOT NULL DEFAULT 'active',
    joined_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    left_at timestamp,
    created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE teams (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL,
    unit_id uuid NOT NULL,
    name varchar(200) NOT NULL,
    team_type varchar(50) NOT NULL,
    purpose text,
    status varchar(20) NOT NULL DEFAULT 'active',
    member_count int NOT NULL DEFAULT 0,
    leader_count int NOT NULL DEFAULT 0,
    start_date date,
    end_date date,
    created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    deleted_at timestamp
);

CREATE TABLE team_members (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    team_id uuid NOT NULL,
    user_id uuid NOT NULL,
    allocation_rate numeric(4, 2) NOT NULL DEFAULT 1.00,
    role varchar(100),
    status varchar(20) NOT NULL DEFAULT 'active',
    start_date date,
    end_date date,
    joined_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    left_at timestamp,
    created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE team_leaders (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    team_id uuid NOT NULL,
    member_id uuid NOT NULL,
    user_id uuid NOT NULL,
    status varchar(20) NOT NULL DEFAULT 'active',
    assigned_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    removed_at timestamp,
    created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE governance_policies (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL,
    name varchar(200) NOT NULL,
    description text,
    policy_type varchar(50) NOT NULL,
    priority int NOT NULL DEFAULT 100,
    enforcement_level varchar(20) NOT NULL,
    status varchar(20) NOT NULL DEFAULT 'active',
    effective_from date NOT NULL,
    effective_until date,
    created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    deleted_at timestamp
);

CREATE TABLE governance_rules (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    policy_id uuid NOT NULL,
    name varchar(200) NOT NULL,
    description text,
    condition text NOT NULL,
    error_message text NOT NULL,
    severity varchar(20) NOT NULL,
    status varchar(20) NOT NULL DEFAULT 'active',
    created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE policy_scopes (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    policy_id uuid NOT NULL,
    target_type varchar(50) NOT NULL,
    target_id uuid NOT NULL,
    include_descendants boolean NOT NULL DEFAULT false,
    status varchar(20) NOT NULL DEFAULT 'active',
    created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE policy_violations (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    policy_id uuid NOT NULL,
    rule_id uuid NOT NULL,
    target_type varchar(50) NOT NULL,
    target_id uuid NOT NULL,
    severity varchar(20) NOT NULL,
    error_message text NOT NULL,
    context jsonb,
    status varchar(20) NOT NULL DEFAULT 'active',
    detected_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    resolved_at timestamp,
    resolved_by uuid,
    resolution text,
    created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP
) PARTITION BY RANGE (detected_at);
