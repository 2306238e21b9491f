-- The fifteen triggers. Functions use bare table names, as in production: they need public in the search_path.

CREATE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    NEW.updated_at := CURRENT_TIMESTAMP;
    RETURN NEW;
END
$body$;

CREATE FUNCTION add_unit_to_hierarchy() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO organization_hierarchies (ancestor_unit_id, descendant_unit_id, depth, path)
    VALUES (NEW.id, NEW.id, 0, NEW.name);
    INSERT INTO organization_hierarchies (ancestor_unit_id, descendant_unit_id, depth, path)
    SELECT ancestor_unit_id, NEW.id, depth + 1, path || '/' || NEW.name
    FROM organization_hierarchies
    WHERE descendant_unit_id = NEW.parent_unit_id;
    RETURN NULL;
END
$body$;

CREATE FUNCTION refuse_bad_parent(unit uuid, parent uuid) RETURNS void LANGUAGE plpgsql AS $body$
DECLARE
    levels_below int := (SELECT max(depth) FROM organization_hierarchies WHERE ancestor_unit_id = unit);
    parent_level int := (SELECT max(depth) FROM organization_hierarchies WHERE descendant_unit_id = parent);
BEGIN
    IF EXISTS (SELECT FROM organization_hierarchies WHERE ancestor_unit_id = unit AND descendant_unit_id = parent) THEN
        RAISE EXCEPTION 'unit % cannot be moved below its own subordinate %', unit, parent
            USING ERRCODE = 'check_violation';
    END IF;
    IF parent_level + 1 + levels_below > 10 THEN
        RAISE EXCEPTION 'unit % would have units deeper than 10 levels', unit USING ERRCODE = 'check_violation';
    END IF;
END
$body$;

CREATE FUNCTION rebuild_hierarchy(unit uuid, parent uuid) RETURNS void LANGUAGE plpgsql AS $body$
BEGIN
    DELETE FROM organization_hierarchies link
    USING organization_hierarchies below
    WHERE below.ancestor_unit_id = unit
      AND link.descendant_unit_id = below.descendant_unit_id
      AND NOT EXISTS (
          SELECT FROM organization_hierarchies inside
          WHERE inside.ancestor_unit_id = unit AND inside.descendant_unit_id = link.ancestor_unit_id
      );
    INSERT INTO organization_hierarchies (ancestor_unit_id, descendant_unit_id, depth, path)
    SELECT above.ancestor_unit_id, below.descendant_unit_id, above.depth + 1 + below.depth,
           above.path || '/' || below.path
    FROM organization_hierarchies above, organization_hierarchies below
    WHERE above.descendant_unit_id = parent AND below.ancestor_unit_id = unit;
    UPDATE organization_units moved
    SET hierarchy_level = COALESCE(above.hierarchy_level + 1, 0) + below.depth,
        path = COALESCE(above.path, '') || '/' || below.path
    FROM organization_hierarchies below
    LEFT JOIN organization_units above ON above.id = parent
    WHERE below.ancestor_unit_id = unit AND moved.id = below.descendant_unit_id;
END
$body$;

CREATE FUNCTION move_unit_in_hierarchy() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    PERFORM refuse_bad_parent(NEW.id, NEW.parent_unit_id);
    PERFORM rebuild_hierarchy(NEW.id, NEW.parent_unit_id);
    RETURN NULL;
END
$body$;

CREATE FUNCTION count_unit_members() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.status = 'active' THEN
        UPDATE organization_units SET member_count = member_count - 1 WHERE id = OLD.unit_id;
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.status = 'active' THEN
        UPDATE organization_units SET member_count = member_count + 1 WHERE id = NEW.unit_id;
    END IF;
    RETURN NULL;
END
$body$;

CREATE FUNCTION count_team_members() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.status = 'active' THEN
        UPDATE teams SET member_count = member_count - 1 WHERE id = OLD.team_id;
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.status = 'active' THEN
        UPDATE teams SET member_count = member_count + 1 WHERE id = NEW.team_id;
    END IF;
    RETURN NULL;
END
$body$;

CREATE FUNCTION count_team_leaders() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.status = 'active' THEN
        UPDATE teams SET leader_count = leader_count - 1 WHERE id = OLD.team_id;
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.status = 'active' THEN
        UPDATE teams SET leader_count = leader_count + 1 WHERE id = NEW.team_id;
    END IF;
    RETURN NULL;
END
$body$;

CREATE FUNCTION other_allocation(person uuid, except_member uuid) RETURNS numeric LANGUAGE plpgsql STABLE AS $body$
BEGIN
    RETURN (
        SELECT COALESCE(sum(allocation_rate), 0)
        FROM team_members
        WHERE user_id = person AND status = 'active' AND id <> except_member
    );
END
$body$;

CREATE FUNCTION refuse_over_allocation() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF other_allocation(NEW.user_id, NEW.id) + NEW.allocation_rate > 2.0 THEN
        RAISE EXCEPTION 'user % would be allocated above 2.0', NEW.user_id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$body$;

CREATE FUNCTION is_last_leader(team uuid, leader uuid) RETURNS boolean LANGUAGE plpgsql STABLE AS $body$
BEGIN
    RETURN EXISTS (SELECT FROM teams WHERE id = team AND status = 'active')
       AND NOT EXISTS (SELECT FROM team_leaders WHERE team_id = team AND status = 'active' AND id <> leader);
END
$body$;

-- A DELETE is refused whatever the status of the row: production does so too, although an inactive leader leads nobody.
CREATE FUNCTION keep_last_leader() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF TG_OP = 'UPDATE'
       AND (OLD.status <> 'active' OR (NEW.status = 'active' AND NEW.team_id = OLD.team_id)) THEN
        RETURN NEW;
    END IF;
    IF is_last_leader(OLD.team_id, OLD.id) THEN
        RAISE EXCEPTION 'team % would be left without an active leader', OLD.team_id
            USING ERRCODE = 'check_violation';
    END IF;
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    RETURN NEW;
END
$body$;

CREATE TRIGGER organization_units_add_to_hierarchy AFTER INSERT ON organization_units
    FOR EACH ROW EXECUTE FUNCTION add_unit_to_hierarchy();
CREATE TRIGGER organization_units_move_in_hierarchy AFTER UPDATE OF parent_unit_id ON organization_units
    FOR EACH ROW WHEN (OLD.parent_unit_id IS DISTINCT FROM NEW.parent_unit_id)
    EXECUTE FUNCTION move_unit_in_hierarchy();
CREATE TRIGGER organization_members_count AFTER INSERT OR UPDATE OR DELETE ON organization_members
    FOR EACH ROW EXECUTE FUNCTION count_unit_members();
CREATE TRIGGER team_members_count AFTER INSERT OR UPDATE OR DELETE ON team_members
    FOR EACH ROW EXECUTE FUNCTION count_team_members();
CREATE TRIGGER team_leaders_count AFTER INSERT OR UPDATE OR DELETE ON team_leaders
    FOR EACH ROW EXECUTE FUNCTION count_team_leaders();
CREATE TRIGGER team_members_allocation BEFORE INSERT OR UPDATE ON team_members
    FOR EACH ROW WHEN (NEW.status = 'active') EXECUTE FUNCTION refuse_over_allocation();
CREATE TRIGGER team_leaders_keep_last BEFORE UPDATE OR DELETE ON team_leaders
    FOR EACH ROW EXECUTE FUNCTION keep_last_leader();

CREATE TRIGGER organizations_updated BEFORE UPDATE ON organizations
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER organization_units_updated BEFORE UPDATE ON organization_units
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER organization_members_updated BEFORE UPDATE ON organization_members
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER teams_updated BEFORE UPDATE ON teams
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER team_members_updated BEFORE UPDATE ON team_members
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER governance_policies_updated BEFORE UPDATE ON governance_policies
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER governance_rules_updated BEFORE UPDATE ON governance_rules
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER policy_scopes_updated BEFORE UPDATE ON policy_scopes
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
